"""The article's script, `echo "hello world";`, as a WSGI application."""


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", "11")])
    return [b"hello world"]
