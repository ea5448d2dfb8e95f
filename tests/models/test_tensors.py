"""Damaged, incomplete and dangerous files of weights are refused in a sentence."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from latentbridge.errors import UserError
from latentbridge.models.omnibridge import load_omnibridge
from latentbridge.models.tensors import open_pickled, open_tensors, read_tensors, shard_files

FIX = "fetch it anew"
STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 4967494344\n"


class Command:
    """What a malicious pickle holds."""

    def __reduce__(self) -> Any:
        return print, ("executed",)


def refused(read: Any, path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(path, FIX)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


# --- one file --------------------------------------------------------------------------------------


def test_whole_files_are_read(tmp_path: Path):
    save_file(STATE, tmp_path / "w.safetensors", metadata={"format": "pt"})
    torch.save(STATE, tmp_path / "w.bin")
    torch.save(STATE, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    torch.save({"model": STATE, "epoch": 3}, tmp_path / "kl16.ckpt")
    for read, name in ((open_tensors, "w.safetensors"), (open_pickled, "w.bin"), (open_pickled, "old.bin")):
        assert all(torch.equal(STATE[key], tensor.read()) for key, tensor in read(tmp_path / name, FIX).items())
    assert open_pickled(tmp_path / "kl16.ckpt").keys() == STATE.keys()
    assert open_tensors(tmp_path / "w.safetensors", FIX).keys() == STATE.keys()


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.95])
def test_a_half_downloaded_file_is_refused(tmp_path: Path, name: str, share: float):
    path, state = tmp_path / name, {**STATE, "large": torch.zeros(2000)}
    save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(read_tensors if name.endswith("safetensors") else open_pickled, path, f"cut short|damaged.*{FIX}")


def test_a_file_says_how_much_of_it_is_missing(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_file({"large": torch.zeros(2500)}, path)
    content = path.read_bytes()
    path.write_bytes(content[:-9000])
    refused(read_tensors, path, f"cut short, with {len(content) - 9000:,} of {len(content):,} bytes; {FIX}")


@pytest.mark.parametrize("read", [read_tensors, open_pickled, open_tensors])
def test_pointers_pages_and_nothing_are_refused(tmp_path: Path, read: Any):
    path = tmp_path / "weights"
    refused(read, path, "No such file")
    path.write_bytes(POINTER)
    refused(read, path, "Git LFS pointer .*git lfs pull")
    path.write_bytes(b"<!DOCTYPE html><html><body>Not found</body></html>")
    refused(read, path, FIX)
    path.write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00[]" if read is not open_pickled else b"\x80junk")
    with pytest.raises(UserError):
        read(path, FIX)


def test_a_pickle_that_could_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "pytorch_model.bin"
    for content in ({**STATE, "hook": Command()}, Command()):
        torch.save(content, path)
        refused(open_pickled, path, "more than tensors.*refused; use the safetensors version")
    path.write_bytes(pickle.dumps(Command()))
    refused(open_pickled, path, "refused")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [{**STATE, "step": 3}, [torch.ones(2)], {"model": 4}, torch.ones(2)])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any):
    torch.save(content, tmp_path / "x.pth")
    refused(open_pickled, tmp_path / "x.pth", "holds no state dict")


# --- shards ----------------------------------------------------------------------------------------


def shards(folder: Path, count: int = 3) -> list[str]:
    names = [f"model-{index:05}-of-{count:05}.safetensors" for index in range(1, count + 1)]
    for index, name in enumerate(names):
        save_file({f"t{index}": torch.zeros(2)}, folder / name)
    return names


def write_index(folder: Path, files: Any) -> None:
    index = {"metadata": {}, "weight_map": {f"t{number}": name for number, name in enumerate(files)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_found_with_and_without_an_index(tmp_path: Path):
    names = shards(tmp_path)
    assert [path.name for path in shard_files(tmp_path, "model*.safetensors")] == names
    save_file({"other": torch.zeros(1)}, tmp_path / "model.fp16.safetensors")
    assert len(shard_files(tmp_path, "model*.safetensors")) == 4
    write_index(tmp_path, names)
    assert [path.name for path in shard_files(tmp_path, "model*.safetensors")] == names
    assert load_omnibridge.open_tensors(tmp_path).keys() == {"t0", "t1", "t2"} == load_omnibridge.tensor_names(tmp_path)
    assert shard_files(tmp_path, "pytorch_model*.bin") == []


@pytest.mark.parametrize("with_index", [True, False])
def test_an_absent_shard_is_named(tmp_path: Path, with_index: bool):
    names = shards(tmp_path)
    if with_index:
        write_index(tmp_path, names)
    (tmp_path / names[1]).unlink()
    for read in (load_omnibridge.open_tensors, load_omnibridge.tensor_names):
        with pytest.raises(UserError, match=rf"2 of the 3 files of its weights \({names[1]} is missing\)"):
            read(tmp_path)


@pytest.mark.parametrize("files", [["../secret.safetensors"], ["/etc/passwd"], [], [3]])
def test_an_index_names_only_files_beside_it(tmp_path: Path, files: list[Any]):
    shards(tmp_path)
    write_index(tmp_path, files)
    with pytest.raises(UserError, match="names no files of weights beside it"):
        shard_files(tmp_path, "*.safetensors")
