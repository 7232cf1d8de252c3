"""States: the letters of the scoreboard and the states of a connection.

*Worker states* say what one thread (under prefork, one process) is doing: one byte for each thread in
the scoreboard, which the status page prints as a letter. The numbers are httpd's, and their order
carries meaning: `state <= READY` is a thread without work (or one that is about to be without), and
`READY <= state < GRACEFUL` is a thread that is up, idle or not.

*Connection states* say what one client's connection is waiting for. Under prefork and worker the
thread's letter says it, for a connection has a thread from accept to close. Under event a connection
that only waits (keep-alive, write completion, lingering close) gives its thread back, and then shows
up in a counter of its process and in no letter.

Source: httpd 2.4, scoreboard.h (worker states), httpd.h and event.c (connection states).
"""

# --- Worker states: one byte for each thread in the scoreboard -----------------------------------

DEAD, STARTING, READY, BUSY_READ, BUSY_WRITE, BUSY_KEEPALIVE, BUSY_LOG = range(7)
# No MPM sets BUSY_DNS and IDLE_KILL: they are kept for their places in the numbering.
BUSY_DNS, CLOSING, GRACEFUL, IDLE_KILL = range(7, 11)

LETTERS = ".S_RWKLDCGI"

# In words, for a legend.
WORDS = (
    "no process", "starting up", "waiting for a connection", "reading a request", "sending a reply", "keep-alive",
    "writing the log", "looking up a name", "closing a connection", "finishing gracefully", "idle, being stopped",
)  # fmt: skip

# Two ranges, as the numeric order gives them. The first is what maintenance counts as idle, the
# second what it counts as active; READY is in both, which is why httpd's "active" includes threads
# that are only waiting. A DEAD thread in a row that has a process counts as idle as well: the
# process was forked a moment ago and has not reached that thread yet.
IDLE = bytes((DEAD, STARTING, READY))
# What the status page counts as busy: everything but not there, not yet, idle, and leaving.
BUSY = bytes((BUSY_READ, BUSY_WRITE, BUSY_KEEPALIVE, BUSY_LOG, BUSY_DNS, CLOSING))
ACTIVE = bytes((READY, *BUSY))


def how_many(states: bytes, which: bytes) -> int:
    """How many of `states` are among `which`: what is lost when those are deleted."""
    return len(states) - len(states.translate(None, which))


# --- Connection states: one for each open connection ---------------------------------------------

PROCESSING = 0  # a thread has it: reading a request, or about to hand it to a handler
HANDLER = 1  # a thread has it, inside a request handler
WRITE_COMPLETION = 2  # the response is made; some of it may still have to be sent
KEEPALIVE = 3  # between two requests
ASYNC_WAITIO = 4  # a protocol module waits for its client (HTTP/1 never does)
SUSPENDED = 5  # a handler put it aside and will bring it back itself
LINGER = 6  # to be closed: say goodbye first
LINGER_NORMAL = 7  # our side is shut; drop what the client still sends, for at most 30 s
LINGER_SHORT = 8  # the same for at most 2 s: the client had its chance already
CLOSED = 9  # gone; ours, so that every path has an end

# Seconds after which a lingering close gives up: MAX_SECS_TO_LINGER, SECONDS_TO_LINGER.
LINGER_SECONDS = {LINGER_NORMAL: 30.0, LINGER_SHORT: 2.0}
