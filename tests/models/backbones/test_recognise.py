from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from latentbridge.models.backbones.recognise import describe_folder

BAGEL = ("llm_config.json", "vit_config.json", "ema.safetensors", "ae.safetensors", "tokenizer.json")
JANUS: dict[str, Any] = {
    "config.json": {"model_type": "multi_modality"},
    "preprocessor_config.json": {"image_processor_type": "VLMImageProcessor"},
    "tokenizer.json": {},
    "pytorch_model-00001-of-00002.bin": {},
}


def fill(folder: Path, files: Any) -> Path:
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(files[name] if isinstance(files, dict) else {}))
    return folder


@pytest.mark.parametrize("absent", BAGEL)
def test_a_bagel_without_one_file_is_told_which(tmp_path: Path, absent: str):
    told = describe_folder(fill(tmp_path, [name for name in BAGEL if name != absent]))
    assert told == f"looks like BAGEL but lacks {absent}; download what is missing"


def test_several_missing_files_are_listed(tmp_path: Path):
    told = describe_folder(fill(tmp_path, ["ae.safetensors", "llm_config.json"]))
    assert told.startswith("looks like BAGEL but lacks vit_config.json, ema.safetensors and tokenizer.json;")


@pytest.mark.parametrize(
    ("absent", "told"),
    [
        ("config.json", "lacks config.json"),
        ("tokenizer.json", "lacks tokenizer.json"),
        ("preprocessor_config.json", "lacks preprocessor_config.json or processor_config.json"),
        ("pytorch_model-00001-of-00002.bin", "lacks model*.safetensors or pytorch_model*.bin"),
    ],
)
def test_a_janus_without_one_file_is_told_which(tmp_path: Path, absent: str, told: str):
    fill(tmp_path, {name: content for name, content in JANUS.items() if name != absent})
    assert describe_folder(tmp_path) == f"looks like Janus-Pro but {told}; download what is missing"


def test_a_plain_harmon_needs_its_autoencoder_and_words(tmp_path: Path):
    told = describe_folder(fill(tmp_path, ["harmon_1.5b.pth"]))
    assert "looks like Harmon but lacks kl16.ckpt or *.safetensors and tokenizer.json" in told


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
def test_a_qwen_without_weights_is_told_so(tmp_path: Path, kind: str):
    fill(tmp_path, {"config.json": {"model_type": kind}, "tokenizer.json": {}})
    assert "looks like Qwen-VL or OmniBridge but lacks *.safetensors;" in describe_folder(tmp_path)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "is a LoRA adapter"),
        (["transformer/config.json", "model_index.json"], "is a drawing decoder"),
        (["snapshots/abc/config.json", "refs/main"], "one level down; give .*snapshots/abc"),
        (["Janus-Pro-7B/config.json"], "one level down; give .*Janus-Pro-7B"),
        (["pytorch_model.bin"], "no model, only weights without a config.json"),
        (["notes.txt"], "holds no model"),
        ({"config.json": {"model_type": "llama"}}, "type 'llama', which is not one .*BAGEL, Harmon, Janus-Pro"),
        (JANUS, "looks like Janus-Pro, but its files do not belong together"),
    ],
)
def test_other_folders(tmp_path: Path, files: Any, told: str):
    assert re.search(told, describe_folder(fill(tmp_path, files)))


def test_damaged_configs_and_odd_paths_are_no_error(tmp_path: Path):
    (tmp_path / "config.json").write_text("{")
    assert describe_folder(tmp_path).startswith("holds no model")
    assert describe_folder(tmp_path / "config.json") == "holds no model, but is a file; check the path"
    assert describe_folder(tmp_path / "nothing") == "holds no model, nor does it exist; check the path"
