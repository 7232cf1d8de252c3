"""As many bytes as ?bytes= says, after as many milliseconds as ?ms= says: what `mpmkit replay` asks for."""

import time
from itertools import chain, repeat
from urllib.parse import parse_qsl

MOST = {"bytes": 1 << 28, "ms": 600_000}
PIECE = b"x" * (1 << 16)


def application(environ, start_response):
    asked = {"bytes": "0", "ms": "0", **dict(parse_qsl(environ["QUERY_STRING"]))}
    wrong = [n for n, most in MOST.items() if not asked[n].isdecimal() or int(asked[n]) > most]
    if wrong:
        start_response("400 Bad Request", [("Content-Type", "text/plain")])
        return [f"{wrong[0]}: must be a whole number up to {MOST[wrong[0]]:,}\n".encode()]
    time.sleep(int(asked["ms"]) / 1000)
    size = int(asked["bytes"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(size))])
    return chain(repeat(PIECE, size >> 16), [PIECE[: size & 0xFFFF]])
