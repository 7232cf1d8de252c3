"""The check-yourself of each notebook: three questions, and a sentence for each wrong answer; and the eight
questions of the class, which are asked before and after it.

    lesson.check_yourself(*questions.OF["01"])
    quiz.Quiz(*questions.OF["class"])
"""

from __future__ import annotations

from helpers.lesson import RIGHT, Item

OF: dict[str, tuple[Item, ...]] = {
    "00": (
        Item("Who accepts the clients of an Apache server?", {
            "the children": RIGHT,
            "the parent process": "the parent owns the listening socket and serves no client",
            "one process for each page": "a process is not bound to a page",
        }),
        Item("What does a graceful restart do to a client that is being served?", {
            "it is served to its end by the old generation": RIGHT,
            "it is cut": "that is a restart by HUP",
            "it moves to the new generation": "a connection stays with the process that accepted it",
        }),
        Item("What does it cost the server when its scoreboard is read?", {
            "no request: it is shared memory": RIGHT,
            "one request": "that is the status page; the scoreboard itself is memory",
            "it stops for that moment": "readers take no lock",
        }),
    ),
    "01": (
        Item("Forty clients come at once to five children. How fast does prefork fork?", {
            "1, 2, 4, 8 … a second, up to 32": RIGHT,
            "all that are missing, at once": "a crowd that leaves again would have cost forks for nothing",
            "one a second": "so it begins; it doubles in each second in which too few are idle",
        }),
        Item("All processes hold a kept connection. What does a new client see?", {
            "it is connected, and waits": RIGHT,
            "a 503": "a status is an answer, and an answer takes a process",
            "a refused connection": "the kernel completes it, as long as the listen queue has room",
        }),
        Item("A child crashes. Who loses a connection?", {
            "the one client that it served": RIGHT,
            "all clients": "the other processes share no memory with it but the scoreboard",
            "no client": "the request that it served has no answer",
        }),
    ),
    "02": (
        Item("A worker child with ThreadsPerChild 8 has how many threads?", {
            "10": RIGHT,
            "8": "those are the workers; the main thread and the listener come in addition",
            "9": "the listener is one more, and so is the main thread",
        }),
        Item("Sixteen browsers keep their connections on sixteen threads. When is a new client served?", {
            "when a KeepAliveTimeout is over": RIGHT,
            "at once": "that is event: worker keeps a thread for each kept connection",
            "when a browser asks for another page": "then the thread serves that browser, and keeps it",
        }),
        Item("What does a crash of one child take down under worker?", {
            "what all its threads hold": RIGHT,
            "one connection": "that is prefork; threads share the memory of their process",
            "everything": "other processes go on",
        }),
    ),
    "03": (
        Item("What does event's listener do with a connection that only waits?", {
            "it keeps it, without a thread": RIGHT,
            "it closes it": "only when no worker is idle, or its time is over",
            "it gives it to an idle worker": "not before there is something to read",
        }),
        Item("event with 400 workers and factor 2 takes how many kept connections?", {
            "1,200": RIGHT,
            "400": "that is worker: a thread for each",
            "any number": "connections_above_limit ends at ThreadsPerChild × (1 + factor) with all threads idle",
        }),
        Item("Which clients occupy a thread under event, too?", {
            "those whose request head is half sent": RIGHT,
            "those that keep a connection": "they wait with the listener",
            "those that fetch a large file by sendfile": "they wait with the listener until the socket has room",
        }),
    ),
    "04": (
        Item("The generator was at its limit in all cells. What do the tables say of the order?", {
            "nothing: it is not decidable": RIGHT,
            "what the medians say": "they say how fast the generator is next to each server",
            "the published order is wrong": "a faster server would not have shown",
        }),
        Item("Why are ratios taken within a round?", {
            "a slow minute meets both servers": RIGHT,
            "it needs fewer rounds": "it takes as many; but what both have in common drops out",
            "so that they have no noise": "they have some: the interval says how much",
        }),
        Item("The 95% interval of a ratio is 0.94 to 1.20. What came out?", {
            "no difference larger than the noise": RIGHT,
            "the two are the same": "an interval that holds 1 does not show that they are equal",
            "the first is 7% faster": "so is the middle, but the interval holds 1",
        }),
    ),
    "05": (
        Item("Eight threads of one process compute. How many times as much as one thread?", {
            "about as much: the GIL": RIGHT,
            "eight times": "that is so for threads that wait, not for those that compute in Python",
            "as many times as there are cores": "that takes processes: a lock lets one thread of each compute",
        }),
        Item("A counter in a WSGI script loses updates. Under which MPM does it not?", {
            "prefork": RIGHT,
            "worker": "threads of one process come between the read and the write",
            "event": "its requests run in threads, as worker's",
        }),
        Item("What does a thread of event do while php-fpm works for its request?", {
            "it waits for the answer": RIGHT,
            "it serves other clients": "the handler holds it until the response is made",
            "it runs the script": "the script runs in a process of php-fpm",
        }),
    ),
    "06": (
        Item("Why is the sum of RSS too large?", {
            "it counts a shared page once for each process": RIGHT,
            "it counts swapped pages": "RSS is resident memory only",
            "it counts the page cache": "files that are mapped are counted, and once for each process",
        }),
        Item("What says how many workers fit into the memory?", {
            "the slope: what one more costs": RIGHT,
            "the memory at rest, divided by the workers": "that counts the base as if each worker had one",
            "RSS of one process": "most of it is shared with the others",
        }),
        Item("The line was measured up to 400 busy workers, and says that forty times as many fit. Then", {
            "the line is drawn on, and it is about memory alone: measure higher": RIGHT,
            "set forty times as many": "no run has shown more than 400, and so many busy requests need CPU time",
            "set 400": "more may fit; measure at a higher level",
        }),
    ),
    "07": (
        Item("Where is the knee for eight threads and a script that waits?", {
            "at eight users": RIGHT,
            "at the most users measured": "the rate stays the same from eight on",
            "at one user": "up to eight users each has a thread of its own",
        }),
        Item("Beyond the knee four times the users come. What happens to a user's turn?", {
            "it takes four times as long": RIGHT,
            "it stays": "the rate stays; N/X grows with N",
            "its median says how long": "the median knows only those who are let in",
        }),
        Item("More clients keep busy connections than an MPM has workers. Who waits?", {
            "newcomers, and some get nothing": RIGHT,
            "all, the same time": "clients with a connection go on; the others wait in the listen queue",
            "no client under event": "with no idle worker its listener accepts none",
        }),
    ),
    "08": (
        Item("200 requests a second, 50 ms each. How many workers are busy on average?", {
            "10": RIGHT,
            "4": "multiply: 200 a second times 0.05 s",
            "200": "each is there for a twentieth of a second only",
        }),
        Item("A closed loop of one user meets a stall of half a second. How many requests count it?", {
            "one": RIGHT,
            "50": "that is the open loop: so many were due meanwhile",
            "none": "the one that waits for it counts it",
        }),
        Item("At 98% of what the servers can do, the mean wait is", {
            "many times the service time": RIGHT,
            "about the service time": "it grows without bound as the load comes near to the limit",
            "2% longer than at half the load": "the wait is not linear in the load: see Erlang C",
        }),
    ),
    "09": (
        Item("The scoreboard is full of R. Which directive?", {
            "RequestReadTimeout": RIGHT,
            "KeepAliveTimeout": "that bounds K; R reads a head that never ends",
            "MaxRequestWorkers": "more workers would be in R as soon",
        }),
        Item("Eight slow readers and EnableSendfile On. Under which MPM is a newcomer served at once?", {
            "event": RIGHT,
            "worker": "each reader holds a thread until its file is sent",
            "all three": "under prefork and worker each reader holds its worker",
        }),
        Item("Eight slow senders, and no RequestReadTimeout. Under which MPM is a newcomer served?", {
            "under none": RIGHT,
            "event": "a half-sent head holds a thread of event, too",
            "prefork": "each sender holds a process",
        }),
    ),
    "10": (
        Item("What do mpmkit and httpd have in common in these runs?", {
            "the number of processes, second by second": RIGHT,
            "requests per second": "those differ, and by how much depends on the machine",
            "CPU time for a request": "it differs by a factor of 1.7 to 2.6 here",
        }),
        Item("When may two requests/s be divided by one another?", {
            "when they come from the same rounds": RIGHT,
            "when the machine is the same": "it is not the same in another minute",
            "always": "rows of two runs compare two machines",
        }),
        Item("nginx did 67,036/s, mpmkit's event 60,784. Is nginx 1.1 times as fast?", {
            "undecided: when event ran, the machine was the limit": RIGHT,
            "yes, both served the same file": "the generator had no CPU time left for event: a lower bound",
            "yes, it led in each round": "it did, by 1.02 to 1.14, but event's figures are lower bounds",
        }),
    ),
    "11": (
        Item("A log has no %D. What can it tell about busy workers?", {
            "nothing without an assumption about durations": RIGHT,
            "their number is that of the requests a second": "that is so if each takes one second (Little's law)",
            "their number is that of the clients": "a client keeps a worker only while it is served or kept",
        }),
        Item("Browsers read for three seconds between two pages. What keeps prefork's workers busy?", {
            "kept connections, until KeepAliveTimeout": RIGHT,
            "the pages that are being sent": "that takes milliseconds of the three seconds",
            "the listen queue": "a client there has no worker",
        }),
        Item("The log was written by a server with all its workers busy. What does a prediction from it lack?", {
            "clients that gave up, and when the ones that waited really came": RIGHT,
            "nothing: each request is in the log": "a client that gives up in the listen queue leaves no line",
            "the slowest requests": "they are logged when they end, like all others",
        }),
    ),
    "12": (
        Item("Crawlers ask for a slow page, a connection for each. Under which MPM is a person served at once?", {
            "under none": RIGHT,
            "event": "a request that is worked on holds a thread of event, too",
            "prefork": "each crawler's request holds a process",
        }),
        Item("What do twice the workers do about the crawlers?", {
            "they shorten the wait, as long as the pages wait rather than compute": RIGHT,
            "they make a page in half the time": "a page takes 0.2 s in any case: the wait is shorter",
            "nothing": "twice as many pages are made at the same time",
        }),
        Item("A stream of events is silent for a minute. What does event do with its thread?", {
            "the thread stays with it": RIGHT,
            "it serves others": "that is so between two requests, not within one",
            "it closes the connection": "Timeout is about reads and writes, not about a script that waits",
        }),
    ),
    "class": (
        Item("Who accepts the clients' connections and answers their requests?", {
            "the children": RIGHT,
            "the parent": "the parent owns the listening socket, forks, and serves no client",
            "the parent accepts, the children answer": "a child accepts for itself, not by its parent",
        }, ("00-start-here", "Launch")),
        Item("The scoreboard of the worker MPM shows K in each cell. What do its threads do?", {
            "each holds a connection that is idle": RIGHT,
            "each sends an answer": "that is W",
            "each waits for a connection": "that is an underscore",
        }, ("02-worker", "Keep-alive takes the threads")),
        Item("Forty clients come at once to five processes of prefork. How does the pool grow?", {
            "by 1, 2, 4, 8 … from one second to the next": RIGHT,
            "by all that are missing, at once": "the parent looks once a second, and begins with one",
            "by one in each second": "it doubles as long as too few are idle",
        }, ("01-prefork", "The pool breathes")),
        Item("All workers are busy, and one more client comes. What does it see?", {
            "it is connected and waits": RIGHT,
            "503 Service Unavailable": "a status is an answer, and no worker is free to give one",
            "connection refused": "the kernel completes the connection and puts it in the listen queue",
        }, ("01-prefork", "When processes run out")),
        Item("Every worker holds an idle connection. Which directive bounds a newcomer's wait?", {
            "KeepAliveTimeout": RIGHT,
            "Timeout": "that bounds a read or a write within a request; between two requests it has no effect",
            "MaxConnectionsPerChild": "that ends a process after so many connections, not an idle connection",
        }, ("02-worker", "Keep-alive takes the threads")),
        Item("Sixteen threads, sixteen browsers that only keep their connection. What does a newcomer meet?", {
            "worker lets it wait, event serves it at once": RIGHT,
            "both let it wait: all threads are taken": "under event an idle connection has no thread",
            "both serve it at once: no thread works": "under worker a thread stays with its idle connection",
        }, ("03-event", "Keep-alive leaves the threads alone")),
        Item("event, MaxRequestWorkers 400, AsyncRequestWorkerFactor 2: how many kept connections fit?", {
            "1,200": RIGHT,
            "400": "that is worker; event takes factor × idle threads in addition",
            "any number": "above ThreadsPerChild + factor × idle threads a child stops accepting",
        }, ("03-event", "Why event exists")),
        Item("Why is event the usual choice?", {
            "an idle connection takes no worker": RIGHT,
            "it uses the least CPU time for a request": "prefork uses less: nothing goes from thread to thread",
            "a crash of a child costs it least": "it loses all that the child held, parked connections included",
            "it is safe for any code": "threads share memory: code that is not thread-safe needs prefork",
        }, ("03-event", "Why event exists")),
    ),
}  # fmt: skip
