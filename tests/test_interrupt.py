"""A kernel is interrupted while a control room runs: nothing is left that the room does not hold."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

import pytest
from support.waiting import poll_until

ROOT = Path(__file__).resolve().parent.parent
MARK = "MPMKIT_TEST_MARK"

BEGIN = """
from mpmkit.lab import Room
room = Room("event")
room.start()
room.start_load(users=2)
print("server", room.server.pid)
"""


def started(word: str, kernel: int = 0) -> list[int]:
    """Processes that carry the mark, without the kernel itself."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={word}".encode() in (place / "environ").read_bytes():
                found.append(int(place.name))
    return [pid for pid in found if pid != kernel]


def all_end(word: str, kernel: int = 0) -> None:
    poll_until(lambda: not started(word, kernel), lambda: f"{started(word, kernel)} end", 15)


@pytest.mark.timeout(100)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_interrupt_leaves_the_room_in_charge_and_no_orphan():
    from jupyter_client.manager import KernelManager

    word = uuid.uuid4().hex
    kernel = KernelManager(kernel_name="python3")
    kernel.start_kernel(env={**os.environ, MARK: word, "PYTHONPATH": str(ROOT)})
    client = kernel.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=40)
        itself = kernel.provisioner.pid
        assert started(word) == [itself]

        def once(code: str) -> tuple[str, str]:
            printed = []
            told = client.execute_interactive(
                code,
                timeout=40,
                output_hook=lambda message: printed.append(message["content"].get("text", "")),
            )
            return told["content"].get("ename", told["content"]["status"]), "".join(printed)

        def run(code: str) -> tuple[str, str]:
            # For a moment after an error the kernel aborts what it is sent, and has not run it then.
            return poll_until(lambda: (said := once(code))[0] != "aborted" and said, "it runs", 20)

        said, text = run(BEGIN)
        assert said == "ok" and text.startswith("server ")
        client.execute("print('waits', flush=True)\nimport time\ntime.sleep(60)")
        while client.get_iopub_msg(timeout=20)["content"].get("text", "") != "waits\n":
            pass
        kernel.interrupt_kernel()
        told = client.get_shell_msg(timeout=20)
        assert told["content"]["ename"] == "KeyboardInterrupt"
        # The server is still the room's: it runs, or has ended and the room knows; stop ends all.
        said, text = run("print(room.server is None or room.server.running)")
        assert (said, text) == ("ok", "True\n")
        said, text = run("room.stop_load(); room.stop(); room.close()")
        assert said == "ok", text
        all_end(word, itself)
        # And once more, with the kernel shut down instead of the room.
        assert run(BEGIN.replace("room.start_load(users=2)\n", ""))[0] == "ok"
        assert started(word, itself)
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
        kernel.cleanup_resources()
    all_end(word)
