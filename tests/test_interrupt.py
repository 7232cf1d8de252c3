"""A kernel is interrupted while a control room runs: nothing is left that the room does not hold."""

import os
import tempfile
import uuid
from pathlib import Path

import pytest
from support.files import site
from support.waiting import MARK, marked, poll_until

ROOT = Path(__file__).resolve().parent.parent
BEGIN = """
from mpmkit.lab import Room
room = Room("event")
room.start()
"""


@pytest.mark.timeout(100)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_interrupt_leaves_the_room_in_charge_and_no_orphan():
    from jupyter_client.manager import KernelManager

    word = uuid.uuid4().hex
    # Unix sockets: a TCP port that is chosen now may be another process's when the kernel takes it.
    sockets = os.path.join(tempfile.mkdtemp(prefix="mpmkit-kernel-", dir=site()), "kernel")
    kernel = KernelManager(kernel_name="python3", transport="ipc", ip=sockets)
    kernel.start_kernel(env={**os.environ, MARK: word, "PYTHONPATH": str(ROOT)})
    client = kernel.blocking_client()
    client.start_channels()

    def once(code: str) -> tuple[str, str]:
        printed: list[str] = []
        hook = lambda message: printed.append(message["content"].get("text", ""))  # noqa: E731
        said = client.execute_interactive(code, timeout=40, output_hook=hook)["content"]
        return said.get("ename", said["status"]), "".join(printed)

    def run(code: str) -> tuple[str, str]:
        # For a moment after an error the kernel aborts what it is sent, and has not run it then.
        return poll_until(lambda: (said := once(code))[0] != "aborted" and said, "it runs", 20)

    try:
        client.wait_for_ready(timeout=40)
        itself = [kernel.provisioner.pid]
        assert marked(word) == itself
        assert run(BEGIN + "room.start_load()")[0] == "ok"
        client.execute("print('waits', flush=True)\nimport time\ntime.sleep(60)")
        while client.get_iopub_msg(timeout=20)["content"].get("text", "") != "waits\n":
            pass
        kernel.interrupt_kernel()
        assert client.get_shell_msg(timeout=20)["content"]["ename"] == "KeyboardInterrupt"
        # The server is still the room's: it runs, or has ended and the room knows; stop ends all.
        assert run("print(room.server is None or room.server.running)") == ("ok", "True\n")
        assert run("room.stop_load(); room.stop(); room.close()")[0] == "ok"
        poll_until(lambda: marked(word) == itself, lambda: f"{marked(word)} end", 15)
        # And once more, with the kernel shut down instead of the room.
        assert run(BEGIN)[0] == "ok" and marked(word) != itself
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
        kernel.cleanup_resources()
    poll_until(lambda: not marked(word), lambda: f"{marked(word)} end", 15)
