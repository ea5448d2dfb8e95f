"""Processes and their share of the cores."""

from __future__ import annotations

import os
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from latentbridge.processes import cores, start_process


def greet(handle: int, name: str) -> None:
    """What the process below does."""
    Connection(handle).send((name, os.environ["OMP_NUM_THREADS"]))


def test_a_process_calls_a_function_with_values_and_what_it_shall_have_open():
    ours, theirs = Pipe()
    process = start_process(greet, theirs.fileno(), "a 'name'", threads=3, keep=[theirs.fileno()])
    theirs.close()
    assert ours.recv() == ("a 'name'", "3")
    assert process.wait(60) == 0
    with pytest.raises(EOFError):  # nobody else has the other end
        ours.recv()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot keep a process to some cores")
def test_cores_are_those_that_a_process_may_use():
    usable = os.sched_getaffinity(0)
    assert 1 <= cores() <= len(usable)
    try:
        os.sched_setaffinity(0, {min(usable)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, usable)
