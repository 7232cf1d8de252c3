"""Scripts of the same site under the real httpd and under ours: CGI, and php-fpm by FastCGI.

Each case is asked of both at the same time. What they answer must be alike: status, the header lines
that a script decides, body, and whether the connection stays.
"""

from __future__ import annotations

import pytest
from support.client import exchange, read_reply
from support.files import open_to_all, program, write

from mpmkit.measure.phpfpm import PhpFpm, find_php_fpm
from mpmkit.measure.process_group import NotInstalled
from mpmkit.measure.reference_servers import load_lines
from tests.fidelity.server_pair import Pair

MODULES = ("alias", "mime", "cgi", "proxy", "proxy_fcgi")
CONF = """
{loads}
ScriptAlias /cgi-bin/ "{where}/cgi-bin/"
AddHandler cgi-script .cgi
DirectoryIndex index.html
<Directory "{where}/cgi-bin/">
    Require all granted
</Directory>
<Directory "{where}/日本">
    Options +ExecCGI +FollowSymLinks
    Require all granted
</Directory>
Alias /wide/ "{where}/日本/"
<FilesMatch "\\.php$">
    SetHandler "{handler}"
</FilesMatch>
ErrorDocument 404 /front.php/err?e=1
ErrorDocument 500 /cgi-bin/told?e=2
"""

# A program that answers with the bytes of its query: %XX decoded, so a case can say any head.
RAW = """#!/usr/bin/python3 -S
import os, sys
from urllib.parse import unquote_to_bytes
sys.stdout.buffer.write(unquote_to_bytes(os.environ["QUERY_STRING"]))
"""
NAMES = (
    "REQUEST_METHOD QUERY_STRING SCRIPT_NAME SCRIPT_FILENAME PATH_INFO PATH_TRANSLATED REQUEST_URI "
    "CONTEXT_PREFIX CONTEXT_DOCUMENT_ROOT DOCUMENT_ROOT CONTENT_LENGTH CONTENT_TYPE REDIRECT_URL "
    "REDIRECT_STATUS REDIRECT_QUERY_STRING REDIRECT_REQUEST_METHOD"
).split()
TOLD = f"""#!/usr/bin/python3 -S
import os
print("Content-Type: text/plain\\n")
for name in {NAMES}:
    print(name, ascii(os.environb.get(name.encode(), b"-")))
"""
PHP = (
    "<?php header('Content-Type: text/plain'); foreach (explode(' ', '"
    + " ".join(NAMES)
    + """') as $n)
    echo $n, ' ', json_encode(bin2hex($_SERVER[$n] ?? '-')), "\\n"; echo file_get_contents('php://input');
"""
)


@pytest.fixture(scope="module")
def pair(httpd, shared):
    """Both servers over a site in a folder that others may enter as well."""
    root = shared / "pages"
    for name, text in {"raw": RAW, "told": TOLD, "café": TOLD}.items():
        program(shared / "cgi-bin" / name, text)
    program(shared / "日本" / "é.cgi", TOLD)
    for place in (shared / "日本", root):
        write(place / "told.php", PHP)
        write(place / "café.php", PHP)
    write(root / "front.php", PHP)
    write(root / "index.html", "index")
    open_to_all(shared)
    try:
        find_php_fpm()
    except NotInstalled as error:
        pytest.skip(str(error))
    with PhpFpm(children=8) as fpm:
        loads = "\n".join(load_lines(httpd, MODULES))
        conf = CONF.format(where=shared, handler=fpm.handler, loads=loads)
        with Pair("event", root, conf) as both:
            yield both


# Not Content-Length: httpd gives one to a program that happens to have ended by then.
KEPT = ("Content-Type", "Location", "X-A", "Connection")


def shown(port: int, data: bytes) -> dict:
    """An answer as it is compared."""
    received = exchange(port, data)
    if not received.startswith(b"HTTP/1.1 "):
        return {"bytes": received}
    reply = read_reply(received, data.split(b" ", 1)[0].decode())
    found = {name: reply[name] for name in KEPT}
    body = reply.body if reply.status < 300 or b"REQUEST_METHOD" in reply.body else b"page"
    if b"REDIRECT_STATUS" in body:
        # Ours says nothing of a body that the page of an error does not get (CONTENT_LENGTH), and has
        # the root of an alias without its last slash.
        body = b"\n".join(
            line.replace(b"/'", b"'").replace(b'2f"', b'"')
            for line in body.splitlines()
            if not (line.startswith(b"CONTENT_LENGTH") and b'REDIRECT_STATUS "2d' not in body)
        )
    return {"status": reply.status_line, "body": body, **found}


def raw(head: str) -> str:
    return f"/cgi-bin/raw?{head}"


CONTROLS = [raw(f"A:%20b%{n:02x}c%0a%0abody") for n in (*range(1, 9), 11, 12, *range(14, 32), 127)]
PATHS = [
    *CONTROLS,
    raw("A:%20b%09c%0a%0abody"), raw("X-A:%20caf%c3%a9%0a%0abody"),
    raw("Status:%20200%20O%01K%0a%0abody"), raw("Content-Type:%20a/b%01%0a%0abody"),
    raw("A%20B:%20c%0a%0abody"), raw(":%20c%0a%0abody"), raw("no colon%0a%0abody"),
    raw("Location:%20/nosuch%3fx=1%0a%0a"), raw("Location:%20/nosuch.php%0a%0a"),
    raw("Location:%20/cgi-bin/raw%3fbad%0a%0a"),
    raw("X-A:%201%0a%0a7 bytes"), raw("%0a"), raw("X-A:%201%0a%0a"),
    "/cgi-bin/caf%C3%A9", "/cgi-bin/caf%C3%A9/%E6%97%A5?x=%E6", "/wide/%C3%A9.cgi/p%C3%A9",
    "/told.php", "/told.php/p%C3%A9?x=1", "/caf%C3%A9.php", "/caf%C3%A9.php/%E6%97%A5",
    "/wide/told.php", "/wide/caf%C3%A9.php/x",
    raw("Status:%20404%20O%7fK%0a%0aREQUEST_METHOD"),
    "/nosuch", "/nosuch?q=2", "/none.php?q=3", "/caf%C3%A9",
]  # fmt: skip


@pytest.mark.rival
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("path", PATHS)
def test_both_answer_alike(pair, method, path):
    length = "Content-Length: 0\r\n" if method == "POST" else ""
    data = f"{method} {path.replace(' ', '%20')} HTTP/1.1\r\nHost: x\r\n{length}Connection: close\r\n\r\n"
    theirs, ours = pair.both(lambda side: shown(side.port, data.encode()))
    assert ours == theirs


@pytest.mark.rival
@pytest.mark.parametrize("size", [0, 3, 16000, 100_000])
def test_a_chunked_body_reaches_php(pair, size):
    body = b"x" * size
    chunks = (b"%x\r\n%b\r\n" % (size, body) if size else b"") + b"0\r\n\r\n"
    head = (
        b"POST /told.php HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    )
    data = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    theirs, ours = pair.both(lambda side: shown(side.port, data))
    assert ours == theirs
    # Of a body over 16 KB neither gives the length, and php-fpm reads nothing without one.
    assert ours["body"].endswith(body) == (size < 16384)
