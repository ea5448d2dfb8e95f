"""Peak host memory of loading, by the benchmark's own measure at a tenth of its size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "loading.py"
MEGABYTES = "250"
LAYOUTS = ["ours", "qwen2-vl", "bagel", "janus .bin", "janus safetensors", "harmon .pth", "harmon safetensors"]


def told(*arguments: str) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_loading_takes_at_most_a_tenth_more_than_the_model(tmp_path: Path, layout: str):
    told("write", layout, MEGABYTES, str(tmp_path))
    for dtype in ("bfloat16", "float32"):
        assert 0.95 < told("peak", layout, MEGABYTES, str(tmp_path), dtype) < 1.1, dtype


@pytest.mark.slow
def test_quantised_loading_never_holds_the_whole_model_unquantised(tmp_path: Path):
    told("write", "ours", MEGABYTES, str(tmp_path))
    assert told("peak", "ours", MEGABYTES, str(tmp_path), "bfloat16", "int8") < 1.5  # 2 in bfloat16
