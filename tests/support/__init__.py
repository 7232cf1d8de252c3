"""What tests share: servers, clients, waiting, document roots, a small load; `rows`, `recordings` and `malformed`
hold data that several test modules read.

    with serving("event", ThreadsPerChild=4) as server:      a small pool; checked, stopped, checked again
        with Client(server) as client:                       one connection, byte by byte
            client.get("/file.txt").body
        with Load(server, clients=8) as load: ...            many clients in threads, until the block ends

A test never sleeps to let something happen. It waits for the thing itself, by `poll_until` or by a
read with a deadline, and fails with what it saw when that takes too long. Where something must *not*
happen, a client waits for it (`Client.silent`).
"""
