"""A script that takes its process with it, as a fault in a C extension would.

    /crash.py           says what it would do
    /crash.py?now       os.abort()

Under prefork the process has one client, the one that asked. Under worker and event every connection of
the child is cut: requests of other threads, kept-alive ones that event holds, all of them.
"""

import os


def application(environ, start_response):
    if environ["QUERY_STRING"] == "now":
        os.abort()
    body = b"/crash.py?now ends this process, and cuts every connection it has\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
