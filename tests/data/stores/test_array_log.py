from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentbridge.data.stores.array_log import ArrayLog, Batch, RaggedArray
from latentbridge.errors import UserError

KEY = {"model": "a", "sizes": [3, 5]}


def batch(*lengths: int, value: int = 0) -> Batch:
    """Return states [length, 3] of float16, and one number per item."""
    states = [np.full((length, 3), value + i, np.float16) for i, length in enumerate(lengths)]
    return {"states": states, "number": [np.array([value + i]) for i in range(len(lengths))]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write two batches: three items from 10 on, two from 20 on."""
    log = ArrayLog(tmp_path / "new", KEY)
    log.append(batch(2, 0, 1, value=10))
    log.append(batch(1, 3, value=20))
    return tmp_path / "new"


def test_items_are_read_back_in_order(folder: Path):
    log = ArrayLog(folder, KEY)
    arrays = log.arrays()
    assert len(log) == 5 and arrays["number"].rows.tolist() == [10, 11, 12, 20, 21]
    assert [arrays["states"][i].tolist() for i in range(5)] == [
        [[10] * 3] * 2, [], [[12] * 3], [[20] * 3], [[21] * 3] * 3
    ]  # fmt: skip
    assert arrays["states"].rows.dtype == np.float16 and not arrays["states"].rows.flags.writeable


def test_a_reopened_log_appends(folder: Path):
    ArrayLog(folder, KEY).append(batch(1, value=30))
    assert ArrayLog(folder, KEY).arrays()["number"].rows.tolist() == [10, 11, 12, 20, 21, 30]


@pytest.mark.parametrize("torn", [1, 40, 10_000])
def test_a_torn_batch_is_ignored_and_overwritten(folder: Path, torn: int):
    lines = (folder / "batches.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "batches.jsonl").write_bytes(lines[0] + lines[1][:-1][:torn])  # its rows are whole on disk
    log = ArrayLog(folder, KEY)
    assert len(log) == 3
    log.append(batch(2, value=40))
    assert ArrayLog(folder, KEY).arrays()["number"].rows.tolist() == [10, 11, 12, 40]
    assert (folder / "number.rows").stat().st_size == 4 * 8


def test_rows_of_another_dtype_are_refused_before_writing(folder: Path):
    log = ArrayLog(folder, KEY)
    with pytest.raises(ValueError, match="<f4"):
        log.append({**batch(1), "states": [np.zeros((1, 3), np.float32)]})
    assert len(ArrayLog(folder, KEY)) == 5


def test_another_key_is_refused_by_name(folder: Path):
    with pytest.raises(UserError, match=r"was made with sizes \[3, 5\], not \[3, 7\]; choose another folder"):
        ArrayLog(folder, {**KEY, "sizes": (3, 7)})
    assert len(ArrayLog(folder, {**KEY, "sizes": (3, 5)})) == 5


def test_a_second_writer_is_refused(folder: Path):
    one, other = ArrayLog(folder, KEY), ArrayLog(folder, KEY)
    one.append(batch(1, value=50))
    with pytest.raises(UserError, match="Another process is writing"):
        other.append(batch(1, value=60))
    one.append(batch(1, value=70))
    assert ArrayLog(folder, KEY).arrays()["number"].rows.tolist()[5:] == [50, 70]


@pytest.mark.parametrize("name", ["states.rows", "number.rows", "batches.jsonl", "manifest.json"])
@pytest.mark.parametrize("how", ["flip a bit", "cut", "delete"])
def test_damage_is_refused(folder: Path, name: str, how: str):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[-7 if name.endswith("rows") else 1] ^= 1
    if how == "delete" and name.endswith("rows"):
        path.unlink()
    else:
        path.write_bytes(content[:-4] if how == "cut" and name != "batches.jsonl" else content)
    with pytest.raises(UserError, match=f"damaged .{name}.; delete that folder"):
        ArrayLog(folder, KEY)


def test_padding_by_hand():
    ragged = RaggedArray(np.array([[1], [2], [3], [4], [5], [6]]), np.array([2, 3, 6]))
    values, mask = ragged.padded([1, 0, 2, 1])
    assert values[..., 0].tolist() == [[3, 0, 0], [1, 2, 0], [4, 5, 6], [3, 0, 0]]
    assert mask.tolist() == [[True, False, False], [True, True, False], [True, True, True], [True, False, False]]
