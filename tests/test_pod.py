"""The pipe of death by itself. That a byte calls one child and its end all of them, test_pool.py and
test_processes.py show."""

import os

import pytest

from mpmkit.server.pod import PipeOfDeath


@pytest.fixture
def pod():
    made = PipeOfDeath()
    yield made
    made.close()


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
