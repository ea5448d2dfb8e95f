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

import latentbridge
from latentbridge.import_path import import_path
from latentbridge.processes import cgroup_cpu_quota, cores, idle_cores, python_command, start_process


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


SHADOWED = ("queue", "statistics", "random", "logging", "numpy", "torch", "typer", "PIL", "pip")


@pytest.fixture
def decoys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the current folder one of modules named like libraries, each of which leaves a file when it is imported."""
    for name in SHADOWED:
        (tmp_path / f"{name}.py").write_text(
            f"open(__file__ + '.ran', 'w')\nraise SystemExit('{name} of the folder')\n"
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.ran"))


def import_shadowed(handle: int) -> None:
    """Run in the worker process."""
    import queue
    import random
    import statistics

    import numpy
    import typer

    Connection(handle).send([module.__file__ for module in (queue, random, statistics, numpy, typer)])


@pytest.mark.parametrize("entry", [None, "", ".", "FOLDER"])
def test_a_process_imports_nothing_from_the_current_folder(
    decoys: Path, monkeypatch: pytest.MonkeyPatch, entry: str | None
):
    if entry is not None:  # PYTHONPATH=$PYTHONPATH:... with no PYTHONPATH before has an empty entry
        monkeypatch.setenv("PYTHONPATH", entry.replace("FOLDER", str(decoys)) + os.pathsep)
        monkeypatch.syspath_prepend(entry.replace("FOLDER", str(decoys)))
    for name, value in {"PYTHONINSPECT": "1", "PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    ours, theirs = Pipe()
    process = start_process(import_shadowed, theirs.fileno(), keep=[theirs.fileno()])
    theirs.close()
    assert all(str(decoys) not in file for file in ours.recv())
    assert process.wait(60) == 0 and ran(decoys) == []


def test_a_command_runs_with_nothing_of_the_current_folder(decoys: Path):
    package = str(Path(latentbridge.__file__).parents[1])
    for path in (package, f"{os.pathsep}{package}", f"{decoys}{os.pathsep}{package}"):
        command = [sys.executable, "-c", "import sys; del sys.path[0]; from latentbridge.__main__ import run; run()"]
        for start in ([sys.executable, "-m", "latentbridge"], command):
            done = subprocess.run(
                [*start, "embed", "--text", "a star", "--json"],
                env={**os.environ, "PYTHONPATH": path},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0 and '"embedding"' in done.stdout, done.stderr
            assert ran(decoys) == []


def say(text: str) -> None:
    """Run in the worker process."""
    print(text)


@pytest.mark.skipif(sys.platform == "win32", reason="the C locale is POSIX")
def test_a_process_prints_letters_that_its_locale_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    process = start_process(say, "größe ☂", log=tmp_path / "log")
    assert process.wait(60) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_bytes() in (b"gr\\xf6\\xdfe \\u2602\n", "größe ☂\n".encode())


def test_pip_is_not_taken_from_the_folder_it_downloads_to(decoys: Path):
    code = "import runpy; runpy.run_module('pip', run_name='__main__', alter_sys=True)"
    done = subprocess.run([*python_command(code), "--version"], capture_output=True, text=True, cwd=decoys)
    assert done.returncode == 0 and done.stdout.startswith("pip ") and ran(decoys) == []


def test_a_folder_that_modules_are_installed_in_stays(monkeypatch: pytest.MonkeyPatch):
    for folder in (Path(os.__file__).parent, Path(pytest.__file__).parents[1], Path(latentbridge.__file__).parents[1]):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", ["", str(folder), "/elsewhere"])
        assert import_path() == [str(folder), "/elsewhere"]


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_process_forked_after_a_computation_on_several_threads_computes():
    code = """if True:
        import os, signal, torch
        torch.set_num_threads(4)
        import latentbridge
        model = latentbridge.load("tiny")
        before = model.embed(texts="a star").tolist()
        torch.ones(2_000, 2_000).sin_()
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            torch.ones(2_000, 2_000).sin_()
            close = max(abs(a - b) for a, b in zip(before, model.embed(texts="a star").tolist())) < 1e-5
            os._exit(7 if close and torch.get_num_threads() == 1 else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), torch.get_num_threads())
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["7", "4"], done.stdout + done.stderr
