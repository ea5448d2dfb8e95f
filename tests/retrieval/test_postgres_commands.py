"""The index commands give the same results in a folder and in PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentbridge.cli import main
from latentbridge.config import ModelConfig
from latentbridge.models.checkpoint import new_model, save_model


@pytest.mark.slow
def test_commands_agree_in_a_folder_and_a_database(
    postgres: str, tmp_path: Path, small_config: ModelConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    model, album = tmp_path / "model", tmp_path / "album"
    save_model(new_model(small_config, 0), model)
    album.mkdir()
    rng = np.random.default_rng(2)
    for number in range(7):
        Image.fromarray(rng.integers(0, 256, (20 + number, 20, 3), dtype=np.uint8)).save(album / f"{number}.png")
    (album / "7.png").write_bytes((album / "3.png").read_bytes())

    def call(*arguments: str | Path) -> Any:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--json"])
        assert ended.value.code in (0, None)
        return json.loads(capsys.readouterr().out)

    def results(address: str) -> list[Any]:
        """Return the output of each command in turn."""
        built = call("index", "build", album, "--store", address, "--model", model, "--field", "owner=anna")
        return [
            built["items"],
            call("search", address, "a star", "--not", "red", "--where", "height>21", "--model", model)["hits"],
            call("search", address, "--like", "3.png", "-k", "2", "--model", model)["hits"],
            call("index", "duplicates", address)["pairs"],
            call("index", "delete", address, "--where", "height<23"),
            call("index", "check", address),
            call("index", "build", album, "--store", address, "--model", model, "--field", "owner=anna")["embedded"],
            call("index", "info", address)["items"],
        ]

    folder = results(str(tmp_path / "index"))
    assert folder == results(f"{postgres}/album")
    assert folder[0] == 8 and folder[3][0]["ids"] == ["3.png", "7.png"] and folder[-2:] == [3, 8]
