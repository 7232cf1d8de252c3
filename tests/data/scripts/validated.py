"""An application inside the standard library's validator, which raises where a server errs."""

from wsgiref.validate import validator


@validator
def application(environ, start_response):
    read = 0
    if environ["REQUEST_METHOD"] == "POST":
        while piece := environ["wsgi.input"].read(100):
            read += len(piece)
    environ["wsgi.errors"].flush()
    if environ["PATH_INFO"] == "/pieces":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter([b"read ", b"%d" % read])
    body = b"read %d" % read
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
