"""The pipe of death between real processes, and the line that dies with the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from support.waiting import alive, poll_until

from mpmkit.server.pod import PipeOfDeath


@pytest.fixture
def pod():
    made = PipeOfDeath()
    yield made
    made.close()


def test_a_byte_calls_one_and_the_end_calls_everybody(pod):
    assert not pod.called()
    pod.retire_one()
    pod.retire_one()
    assert [pod.called(), pod.called(), pod.called()] == [True, True, False]
    child = PipeOfDeath()
    child.close()
    child._read = os.dup(pod.fileno())  # what a forked child holds
    pod.close()
    assert [child.called(), child.called()] == [True, True]
    child.close()


def test_a_full_pipe_does_not_block(pod):
    for _ in range(70_000):
        pod.retire_one()
    assert pod.called()


def test_a_wait_ends_by_a_byte_by_another_descriptor_or_by_time(pod):
    other = os.eventfd(0)
    try:
        assert pod.wait(other, 0.01) is False
        pod.retire_one()
        assert pod.wait(other, 10) is True
        assert not pod.called()  # the wait took the byte
        os.eventfd_write(other, 1)
        pod.wait(other)
        assert not pod.called()
    finally:
        os.close(other)


def program(text: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def test_each_byte_retires_one_of_many_processes():
    with program("""
        import os, sys
        from mpmkit.server.pod import PipeOfDeath
        pod = PipeOfDeath()
        for _ in range(4):
            if os.fork() == 0:
                pod.only_read()
                pod.wait(os.eventfd(0))
                os._exit(0)
        for line in sys.stdin:
            (pod.close if line == "all\\n" else pod.retire_one)()
            for _ in range(2 if line == "all\\n" else 1):
                os.wait()
            print("gone", flush=True)
        try:
            os.wait()
        except ChildProcessError:
            print("none left", flush=True)
        """) as parent:
        for line in ("one\n", "one\n", "all\n"):
            parent.stdin.write(line)
            parent.stdin.flush()
            assert parent.stdout.readline() == "gone\n"
        parent.stdin.close()
        assert parent.stdout.readline() == "none left\n"
        assert parent.wait(10) == 0


CHILD = """
    import os, signal, sys, time
    from mpmkit.server.pod import Lifeline
    line = Lifeline()
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            line.hold()
            os.write(1, b"%d\\n" % os.getpid())
            while True:
                {busy}
    signal.pause()
"""


@pytest.mark.parametrize("busy", ["time.sleep(1000)", "sum(range(1000))"])
def test_children_die_with_their_parent_however_busy_they_are_and_one_may_die_alone(busy):
    with program(CHILD.format(busy=busy)) as parent:
        first, *others = [int(parent.stdout.readline()) for _ in range(3)]
        os.kill(first, signal.SIGKILL)
        poll_until(lambda: not alive(first))
        assert all(alive(pid) for pid in others) and parent.poll() is None
        parent.kill()
        parent.wait(10)
        poll_until(lambda: not any(alive(pid) for pid in others))
