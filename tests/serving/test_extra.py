"""`pip install latentbridge[serve]`: it brings all that the server imports, and is named where something is missing."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from latentbridge.cli import main

ROOT = Path(__file__).parent.parent.parent
SERVING = ROOT / "src/latentbridge/serving"
OWN_EXTRA = SERVING / "ui"
"""Modules with an extra of their own."""


def _brought(requirements: list[str]) -> set[str]:
    """Return the distributions of some requirements and of their dependencies."""
    brought, waiting = set[str](), [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in brought or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        brought.add(name)
        try:
            waiting += [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:
            continue
    return brought


def _imported(path: Path) -> set[str]:
    """Return the top-level packages that a module imports."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"latentbridge"}


def test_the_extra_brings_all_that_the_server_imports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought = _brought(project["dependencies"] + project["optional-dependencies"]["serve"])
    assert {"starlette", "anyio", "torch"} <= brought
    owners = packages_distributions()
    modules = [path for path in SERVING.rglob("*.py") if OWN_EXTRA not in path.parents]
    assert len(modules) > 10
    missing = {
        f"{path.name}: {name}"
        for path in modules
        for name in _imported(path)
        if not brought & {canonicalize_name(owner) for owner in owners.get(name, ())}
    }
    assert not missing


@pytest.mark.parametrize(("package", "verb"), [("mcp", "mcp"), ("mcp", "serve"), ("fastapi", "serve")])
def test_a_missing_package_is_named_with_its_extra(
    package: str, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name in list(sys.modules):
        if name.startswith((f"{package}.", "latentbridge.serving.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as ended:
        main([verb])
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: Serving needs {package},") and 'pip install "latentbridge[serve]"' in lines[0]
