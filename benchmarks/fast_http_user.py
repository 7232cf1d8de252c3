"""The usual way to write a Locust load: a FastHttpUser that gets one page, as fast as it can.

    locust -f benchmarks/fast_http_user.py --headless --host http://127.0.0.1:8080 -u 64 -r 64

`benchmarks.generators` compares it with our own user. MPMKIT_FAST is JSON: path, keep_alive, seconds from the
first answer to the end (Locust's own `-t` begins earlier), and result, a file for {"requests", "failures",
"seconds", "cpu"} of that time; cpu is in seconds.

Like the locustfile, only locust imports it, in a separate process.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, constant, events, task

HOW = {"path": "/index.html", "keep_alive": True, "seconds": 3} | json.loads(
    os.environ.get("MPMKIT_FAST", "{}")
)
HEADERS = None if HOW["keep_alive"] else {"Connection": "close"}

counted = {"requests": 0, "failures": 0}
began: list[tuple[float, float]] = []
runners: list[Any] = []


class Fast(FastHttpUser):
    wait_time = constant(0)

    @task
    def ask(self) -> None:
        self.client.get(HOW["path"], headers=HEADERS)


@events.test_start.add_listener
def start(environment: Any, **_: object) -> None:
    runners.append(environment.runner)


@events.request.add_listener
def count(exception: Exception | None = None, **_: object) -> None:
    if not began:
        began.append((time.perf_counter(), time.process_time()))
        gevent.spawn_later(HOW["seconds"], runners[0].quit)
    counted["failures" if exception else "requests"] += 1


@events.test_stop.add_listener
def report(**_: object) -> None:
    for clock, cpu in began:
        took = {"seconds": time.perf_counter() - clock, "cpu": time.process_time() - cpu}
        Path(HOW["result"]).write_text(json.dumps(counted | took))
