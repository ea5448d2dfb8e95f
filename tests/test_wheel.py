"""The wheel: built from a copy of the sources, installed beside nothing of the checkout, and run from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.rng import numpy_rng

ROOT = Path(__file__).parent.parent


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds what the wheel installs, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    shutil.copytree(ROOT / "src", sources / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(sources), cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel), cwd=folder)
    return folder / "site"


def test_the_shipped_model_answers_from_the_wheel(installed: Path, tmp_path: Path):
    picture = tmp_path / "scene.png"
    Image.fromarray(render(distinct_scenes("test", numpy_rng(3, "wheel"), 1)[0])).save(picture)
    code = "import latentbridge; print(latentbridge.__file__)"
    found = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert Path(found.strip()).is_relative_to(installed)
    command = (sys.executable, "-m", "latentbridge", "understand", str(picture))
    assert " on " in run(*command, cwd=tmp_path, PYTHONPATH=str(installed))


def test_the_wheel_has_every_file_that_is_not_code(installed: Path):
    package = ROOT / "src" / "latentbridge"
    data = {
        path.relative_to(package) for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    missing = {path for path in data if not (installed / "latentbridge" / path).is_file()}
    assert not missing
    assert next(installed.glob("latentbridge-*.dist-info/licenses/LICENSE"))
