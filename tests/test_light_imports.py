"""What each command imports, and that placeholders change no answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import latentbridge as lb
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.light_imports import PLACEHOLDERS
from latentbridge.rng import numpy_rng

PROMPT, REQUEST = "a red circle left of a blue star", "make the circle green"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("light") / "scene.png"
    Image.fromarray(render(distinct_scenes("test", numpy_rng(3, "light imports"), 1)[0])).save(path)
    return path


def imported(code: str, *arguments: str) -> set[str]:
    """Return the modules that a process of its own has in the end; its last line on stdout lists them."""
    code += "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(json.loads(ended.stdout.splitlines()[-1]))


COMMAND = "from latentbridge.cli import main\nimport sys\ntry: main(sys.argv[1:])\nexcept SystemExit as ended: assert not ended.code"


def test_a_command_imports_none_of_what_inference_never_runs(picture: Path, tmp_path: Path):
    drawing, vectors = str(tmp_path / "out.png"), str(tmp_path / "vectors.npz")
    answers = [["understand", str(picture)], ["embed", str(picture), "--text", "a star", "--out", vectors]]
    draws = [["generate", PROMPT, "--out", drawing, "--steps", "2"], ["edit", str(picture), REQUEST, "--out", drawing]]
    for arguments in [*answers, *draws]:
        found = imported(COMMAND, *arguments)
        assert "torch" in found and "transformers" in found and "matplotlib" not in found
        assert not found & set(PLACEHOLDERS), arguments
        assert ("diffusers" in found) == (arguments in draws), arguments


def test_commands_answer_draw_and_edit_what_the_library_does(picture: Path, tmp_path: Path):
    """Bit for bit: on one thread in both processes."""
    model, seen = lb.load("tiny"), np.asarray(Image.open(picture))
    command = [sys.executable, "-m", "latentbridge"]
    told = subprocess.run([*command, "understand", str(picture)], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == model.understand(seen) and told.stderr == ""
    for name, arguments, expected in (
        ("drawn.png", ["generate", PROMPT, "--seed", "7"], model.generate(PROMPT, 7).picture),
        ("edited.png", ["edit", str(picture), REQUEST], model.edit(seen, REQUEST, 7).picture),
    ):
        subprocess.run([*command, *arguments, "--out", str(tmp_path / name)], capture_output=True, check=True)
        off = np.abs(np.asarray(Image.open(tmp_path / name)).astype(int) - expected)
        assert off.max() <= 1, name  # another number of threads rounds otherwise


def test_what_was_left_out_is_there_when_it_is_imported_afterwards():
    code = (
        "from latentbridge.light_imports import import_model\nimport_model('tiny')\n"
        "import peft, scipy.stats, torch._dynamo\nfrom torch.distributed.tensor import DTensor\n"
        "assert issubclass(DTensor, __import__('torch').Tensor) and scipy.stats.norm.cdf(0) == 0.5"
    )
    assert {"peft", "scipy.stats", "torch._dynamo"} <= imported(code)


def test_a_library_that_needs_what_is_left_out_is_imported_in_the_usual_way(tmp_path: Path):
    (tmp_path / "needy.py").write_text("import scipy.stats\nHALF = 0.5 + scipy.stats.norm.cdf(0)\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom latentbridge.light_imports import import_for_inference\n"
    code += "import_for_inference('needy')\nimport needy\nassert needy.HALF == 1.0"
    assert "scipy.stats" in imported(code)


def test_releases_are_left_to_the_libraries_own_imports(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    code = f"from latentbridge.light_imports import import_model\nimport_model({str(tmp_path)!r})"
    assert "torch" not in imported(code)


def test_commands_print_no_messages_of_libraries(picture: Path):
    """bitsandbytes tells what it goes without when it is imported, by itself or by peft."""
    code = "from latentbridge.cli import main\ntry: main(['version'])\nexcept SystemExit: import peft"
    for command in (["-m", "latentbridge", "understand", str(picture), "--quantize", "int8"], ["-c", code]):
        told = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
        assert told.stdout.strip() and told.stderr == ""
