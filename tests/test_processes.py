"""Worker processes and CPU core counts."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from latentbridge.processes import cgroup_cpu_quota, cores, idle_cores, start_process


def greet(handle: int, name: str) -> None:
    """Run in the worker process."""
    Connection(handle).send((name, os.environ["OMP_NUM_THREADS"]))


def test_a_process_calls_a_function_with_arguments_and_inherited_file_descriptors():
    ours, theirs = Pipe()
    process = start_process(greet, theirs.fileno(), "a 'name'", threads=3, keep=[theirs.fileno()])
    theirs.close()
    assert ours.recv() == ("a 'name'", "3")
    assert process.wait(60) == 0
    with pytest.raises(EOFError):  # nobody else has the other end
        ours.recv()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot keep a process to some cores")
def test_cores_respects_cpu_affinity():
    usable = os.sched_getaffinity(0)
    assert 1 <= cores() <= len(usable)
    try:
        os.sched_setaffinity(0, {min(usable)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, usable)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_cgroup_v2_quota_is_the_minimum_over_ancestors(tmp_path: Path):
    membership, root = tmp_path / "cgroup", tmp_path / "fs"
    membership.write_text("0::/pod/container\n")
    write(root / "pod/container/cpu.max", "max 100000\n")
    assert cgroup_cpu_quota(root, membership) == float("inf")
    write(root / "pod/cpu.max", "250000 100000\n")
    assert cgroup_cpu_quota(root, membership) == 2.5
    write(root / "cpu.max", "70000 100000\n")
    assert cgroup_cpu_quota(root, membership) == 0.7


def test_cgroup_v1_quota_and_minus_one_as_unlimited(tmp_path: Path):
    membership, root = tmp_path / "cgroup", tmp_path / "fs"
    membership.write_text("4:memory:/job\n3:cpu,cpuacct:/job\n")
    write(root / "cpu,cpuacct/job/cpu.cfs_period_us", "100000\n")
    write(root / "cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n")
    assert cgroup_cpu_quota(root, membership) == float("inf")
    write(root / "cpu,cpuacct/job/cpu.cfs_quota_us", "150000\n")
    assert cgroup_cpu_quota(root, membership) == 1.5


def test_without_cgroups_there_is_no_quota(tmp_path: Path):
    assert cgroup_cpu_quota(tmp_path, tmp_path / "missing") == float("inf")


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not say how busy it is")
def test_busy_cores_are_not_idle():
    with ExitStack() as running:
        for _ in range(2 * cores()):
            busy = running.enter_context(
                subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
            )
            running.callback(busy.kill)
            assert busy.stdout and busy.stdout.readline()
        assert idle_cores() == 1


def test_openmp_wait_policy_is_passive_by_default_and_imports_are_light():
    code = "import sys, latentbridge, os; print(os.environ['OMP_WAIT_POLICY'], os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules, 'numpy' in sys.modules)"
    for setting, policy, spins in ((None, "PASSIVE", "10000"), ("ACTIVE", "ACTIVE", "None")):
        environment = {name: os.environ[name] for name in os.environ.keys() - {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}}
        environment |= {"OMP_WAIT_POLICY": setting} if setting else {}
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert result.stdout.split() == [policy, spins, "False", "False"]
