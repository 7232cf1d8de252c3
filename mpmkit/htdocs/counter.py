"""Not safe with threads: a counter that is read, let go of, and written.

    /counter.py         counts one and says `PID COUNT`
    /counter.py?look    says it without counting

Under prefork no other request can come between the read and the write. Under worker and event threads of
the same process do: two of them read the same number, and one of the two increments is lost. Each process
counts for itself, so ask per PID: answers given, less the highest count, is what got lost.
"""

import os
import time

count = 0


def application(environ, start_response):
    global count
    if environ["QUERY_STRING"] != "look":
        seen = count
        time.sleep(0.002)  # whatever a real script does: a query, a file, a lock of its own
        count = seen + 1
    body = f"{os.getpid()} {count}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
