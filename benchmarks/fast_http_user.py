"""What most people write with Locust: a FastHttpUser that gets one page, as fast as it can.

    locust -f benchmarks/fast_http_user.py --headless --host http://127.0.0.1:8080 -u 64 -r 64 -t 3s

It is compared with our own user (`benchmarks.generators`). The environment names what to request, and where
to leave what was counted from the first answer to the end:

    MPMKIT_FAST_PATH        /index.html
    MPMKIT_FAST_LENGTH      bytes of a good answer's body; any if it is not set
    MPMKIT_FAST_KEEP_ALIVE  1 (the default) or 0: a new connection for each request
    MPMKIT_FAST_RESULT      a file for {"requests", "failures", "seconds", "cpu"} as JSON; cpu is in seconds

Like the locustfile it is imported by locust alone, in a process of its own.
"""

from __future__ import annotations

import json
import os
import resource
import time

from locust import FastHttpUser, constant, events, task

PATH = os.environ.get("MPMKIT_FAST_PATH", "/index.html")
LENGTH = os.environ.get("MPMKIT_FAST_LENGTH")
HEADERS = None if os.environ.get("MPMKIT_FAST_KEEP_ALIVE", "1") == "1" else {"Connection": "close"}
RESULT = os.environ.get("MPMKIT_FAST_RESULT")

counted = {"requests": 0, "failures": 0}
began: dict[str, float] = {}


class Fast(FastHttpUser):
    wait_time = constant(0)

    @task
    def ask(self) -> None:
        with self.client.get(PATH, headers=HEADERS, catch_response=True) as answer:
            if LENGTH is not None and len(answer.content or b"") != int(LENGTH):
                answer.failure(f"not {LENGTH} bytes")


def cpu() -> float:
    """Processor time of this process, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@events.request.add_listener
def count(exception: Exception | None = None, **_: object) -> None:
    if not began:
        began.update(clock=time.perf_counter(), cpu=cpu())
    counted["failures" if exception else "requests"] += 1


@events.test_stop.add_listener
def report(**_: object) -> None:
    if RESULT is not None and began:
        seconds, used = time.perf_counter() - began["clock"], cpu() - began["cpu"]
        with open(RESULT, "w") as file:
            json.dump({**counted, "seconds": seconds, "cpu": used}, file)
