"""What tests share: servers, clients, waiting, document roots, a small load; `rows`, `books`,
`recordings`, `malformed`, `loads` and `experiments` have what several modules of one subject share.

    with serving("event", ThreadsPerChild=4) as server:      a small pool; checked, stopped, checked again
        with Client(server) as client:                       one connection, byte by byte
            client.get("/file.txt").body
        with Load(server, clients=8) as load: ...            many clients in threads, until the block ends
    refused(ValueError, "its words", call, argument)         a call that must fail, and says so

A test never sleeps to let something happen. It waits for the thing itself, by `poll_until` or by a read with a
deadline, and fails with what it saw when that takes too long. Where something must *not* happen, a client waits
for it (`Client.silent`).
"""

import os
import signal
import sys
from pathlib import Path

if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    # Tests start two thousand processes: each would compile the package again, for 0.25 s of CPU time.
    # `make clean` removes this folder.
    sys.pycache_prefix = str(Path(__file__).parents[2] / "build" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    sys.dont_write_bytecode = False
# In the background of a shell SIGINT is ignored, and programs would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
