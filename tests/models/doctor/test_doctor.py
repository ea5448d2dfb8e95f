"""`latentbridge doctor FOLDER`: a release as recorded passes, and each thing that degrades it is named."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests.models.doctor.sparse_releases import GOLDEN, qwen_tokens, write_configs, write_sparse, write_tokenizer

from latentbridge.config import ReleaseConfig
from latentbridge.files import read_json, write_json
from latentbridge.models.backbones.janus.modeling_janus import JanusOptions
from latentbridge.models.checkpoint import outline
from latentbridge.models.doctor import checks
from latentbridge.models.doctor.checks import check_release
from latentbridge.models.doctor.records import RECORDS, record_named
from latentbridge.models.doctor.release_folder import open_release_folder
from latentbridge.models.exporting import release_files
from latentbridge.models.omnibridge.export import chat_template


def found(folder: Path) -> dict[str, list[str]]:
    """The messages of all checks that are not ok, by status and subject."""
    result: dict[str, list[str]] = {}
    for check in check_release(open_release_folder(folder)):
        if check.status != "ok":
            result.setdefault(f"{check.status} {check.subject}", []).append(check.message)
    return result


@pytest.fixture(scope="module")
def omnibridge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OmniBridge-8B by the names and shapes that its authors' class has (tests/golden/omnibridge)."""
    folder = tmp_path_factory.mktemp("omnibridge")
    shapes = json.loads((GOLDEN / "omnibridge" / "full_state_dict_shapes.json").read_text())
    names = sorted(shapes)
    for number, part in enumerate((names[:500], names[500:]), start=1):
        write_sparse(folder / f"model-0000{number}-of-00002.safetensors", {name: shapes[name] for name in part}, "BF16")
    record = record_named("OmniBridge-8B")
    assert record
    write_configs(folder, record)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {"model_type": "qwen2_vl", "mm_added_mlp": True, **config})
    write_json(folder / "chat_template.json", {"chat_template": chat_template("You are a helpful assistant.")})
    write_json(folder / "generation_config.json", {"do_sample": True, "top_k": 1, "repetition_penalty": 1.0})
    write_tokenizer(folder, qwen_tokens("<img>", "</img>"), first=151643)
    scheduler = {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "steps_offset": 1}
    for part in ("scheduler", "transformer"):
        (folder / "decoder" / part).mkdir(parents=True)
    write_json(folder / "decoder" / "transformer" / "config.json", {})
    write_json(folder / "decoder" / "scheduler" / "scheduler_config.json", scheduler)
    return folder


@pytest.fixture
def copied(omnibridge: Path, tmp_path: Path) -> Path:
    """The settings of that folder, copied; its weights, linked."""
    folder = tmp_path / "copied"
    shutil.copytree(omnibridge, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for path in omnibridge.glob("*.safetensors"):
        (folder / path.name).symlink_to(path)
    return folder


def test_a_release_as_recorded_passes(omnibridge: Path, call: Callable[..., tuple[int, str, str]]):
    assert found(omnibridge) == {"unknown dtype": ["bfloat16; none is recorded"]}
    code, out, _ = call("doctor", str(omnibridge))
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith("ok       release                   OmniBridge-8B, recorded from xiao-xt")
    assert any("1046 with the names and shapes of the release" in line for line in lines)
    assert any("steps 100, guidance 6.0" in line for line in lines)
    code, out, _ = call("doctor", str(omnibridge), "--json")
    assert code == 0 and json.loads(out)["wrong"] == 0


def change(folder: Path, name: str, **values: Any) -> None:
    stored = {**read_json(folder / name), **values}
    write_json(folder / name, {key: value for key, value in stored.items() if value is not None})


DEGRADED = {
    "no mark of the bridge": (
        lambda folder: change(folder, "config.json", mm_added_mlp=None),
        "warning bridge",
        "lacks mm_added_mlp: it loads here, but the authors' code drops the bridge",
    ),
    "repetition penalty": (
        lambda folder: change(folder, "generation_config.json", repetition_penalty=1.05),
        "warning generation settings",
        "repetition_penalty is 1.05, which changes greedy replies too",
    ),
    "no guidance": (
        lambda folder: change(folder, "generation_config.json", guidance_scale=1.0),
        "warning generation settings",
        "draws without guidance",
    ),
    "another system prompt": (
        lambda folder: change(folder, "chat_template.json", chat_template=chat_template("You are a pirate.")),
        "warning chat template",
        "'You are a pirate.'; the release has 'You are a helpful assistant.'",
    ),
    "another template": (
        lambda folder: change(folder, "chat_template.json", chat_template="{{ messages[0].content }}"),
        "wrong chat template",
        "is not ChatML",
    ),
    "missing special tokens": (
        lambda folder: write_tokenizer(folder, qwen_tokens(), first=151643),
        "wrong tokenizer",
        "lacks special tokens: <img>, </img>",
    ),
    "other ids": (
        lambda folder: write_tokenizer(folder, qwen_tokens("<img>", "</img>"), first=151642),
        "wrong tokenizer",
        "<|im_start|> is 151643, recorded 151644",
    ),
    "another family": (
        lambda folder: write_tokenizer(folder, ["<s>", "</s>"], first=32000),
        "wrong tokenizer",
        "belongs to another family of models",
    ),
    "too many words": (
        lambda folder: write_tokenizer(folder, qwen_tokens("<img>", "</img>"), words=500, first=151643),
        "wrong tokenizer",
        "has ids up to 152158, but the word embeddings have 152064 rows",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        "wrong tokenizer",
        "tokenizer.json is missing or damaged",
    ),
    "other positions": (
        lambda folder: change(folder, "config.json", rope_scaling={"mrope_section": [24, 20, 20]}),
        "wrong config.json",
        "rope_scaling.mrope_section is [24, 20, 20], recorded [16, 24, 24]",
    ),
    "another resize rule": (
        lambda folder: change(folder, "preprocessor_config.json", patch_size=16),
        "wrong preprocessor_config.json",
        "patch_size is 16, recorded 14",
    ),
    "no decoder": (
        lambda folder: shutil.rmtree(folder / "decoder"),
        "warning decoder",
        "neither draws nor edits",
    ),
    "another schedule": (
        lambda folder: change(folder, "decoder/scheduler/scheduler_config.json", prediction_type="epsilon"),
        "wrong decoder",
        "prediction_type is epsilon, recorded v_prediction",
    ),
}


@pytest.mark.parametrize("name", DEGRADED)
def test_what_degrades_in_silence_is_named(copied: Path, name: str):
    degrade, subject, message = DEGRADED[name]
    degrade(copied)
    new = {key: value for key, value in found(copied).items() if key != "unknown dtype"}
    assert list(new) == [subject, *(["wrong chat template"] if name == "another family" else [])]
    assert message in "; ".join(new[subject])


def test_damaged_weights_are_named(copied: Path, call: Callable[..., tuple[int, str, str]]):
    shard = copied / "model-00002-of-00002.safetensors"
    shard.unlink()
    assert "holds 1 of the 2 files of its weights" in found(copied)["wrong weights"][0]
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "Git LFS pointer" in found(copied)["wrong weights"][0]
    shapes = {"bilm.query_tokens": [1, 256, 2048]}
    write_sparse(shard, shapes, "BF16")
    missing = found(copied)["wrong tensors"]
    assert any("are missing" in line for line in missing)
    with shard.open("r+b") as file:
        file.truncate(1000)
    assert "is cut short" in found(copied)["wrong weights"][0]
    assert call("doctor", str(copied))[0] == 1


def released(folder: Path, name: str, dtype: str = "BF16") -> Path:
    """The folder of a release by the names that an export has, which fixtures verify at tiny sizes."""
    record = record_named(name)
    assert record
    files = release_files(outline(ReleaseConfig(record.outline)), "authors")  # pyright: ignore[reportArgumentType]
    for file, tensors in files.weights.items():
        write_sparse(folder / file, {each: tensor.shape for each, tensor in tensors.items()}, dtype)
    for file, values in files.configs.items():
        write_json(folder / file, values)
    if record.family == "bagel":
        write_tokenizer(folder, qwen_tokens(), first=151643)
    else:
        write_tokenizer(folder, list(record.tokens), first=100)
    return folder


def test_bagel_and_janus_at_their_full_sizes(tmp_path: Path):
    for name in ("BAGEL-7B-MoT", "Janus-Pro-1B"):
        folder = tmp_path / name
        folder.mkdir()
        assert found(released(folder, name)).keys() == {"unknown generation settings"}


def test_other_data_types_are_told(tmp_path: Path):
    assert (
        "float16, where the release has bfloat16"
        in found(released(tmp_path, "Janus-Pro-1B", "F16"))["warning dtype"][0]
    )
    assert "a quantised copy" in found(released(tmp_path, "Janus-Pro-1B", "I8"))["wrong dtype"][0]


def test_other_sizes_and_shapes_are_told(tmp_path: Path):
    folder = released(tmp_path, "BAGEL-7B-MoT")
    change(folder, "llm_config.json", rope_theta=10000.0)
    assert found(folder)["wrong llm_config.json"] == ["rope_theta is 10000.0, recorded 1000000.0"]
    vae = folder / "ae.safetensors"
    write_sparse(vae, {"encoder.conv_in.weight": [64, 3, 3, 3], "surplus": [2]}, "BF16")
    wrong = found(folder)["wrong tensors"]
    assert [line.partition(" are ")[2].partition(":")[0] for line in wrong] == [
        "missing",
        "not of this release",
        "of another shape",
    ]
    assert wrong[2].endswith("encoder.conv_in.weight") and wrong[1].endswith("surplus")


def test_defaults_that_leave_the_record_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = released(tmp_path, "Janus-Pro-1B")
    build = checks.record_model

    def unguided(kind: str) -> Any:
        model = copy.copy(build(kind))
        model.drawing_options = replace(JanusOptions(), guidance=1.0)
        return model

    monkeypatch.setattr(checks, "record_model", unguided)
    assert found(folder)["wrong drawing"] == ["guidance is 1.0, recorded 5.0; guidance is off"]


def test_records_are_told_apart_and_name_their_source():
    assert len({(record.family, record.width) for record in RECORDS}) == len(RECORDS)
    assert all(" at " in record.source and record.repository and record.outline for record in RECORDS)
    assert record_named("qwen2-vl-7b-instruct") is record_named("Qwen2-VL-7B")


@pytest.mark.filterwarnings("ignore:the config names the vision tower")
def test_a_fingerprint_tells_copies_apart(tmp_path: Path, call: Callable[..., tuple[int, str, str]]):
    folder, record = tmp_path / "copy", tmp_path / "trusted.json"
    shutil.copytree(GOLDEN / "janus", folder)
    assert call("doctor", str(folder), "--record", str(record))[0] == 0
    code, out, _ = call("doctor", str(folder), "--against", str(record))
    assert code == 0 and "the weights are the recorded ones, bit for bit" in out
    weights = load_file(folder / "model.safetensors")
    weights["language_model.model.layers.1.mlp.down_proj.weight"] *= 3
    save_file(weights, folder / "model.safetensors")
    code, out, _ = call("doctor", str(folder), "--against", str(record))
    assert code == 1 and "the weights are not the recorded ones" in out and "wrong    fingerprint" in out
    write_json(record, {"weights": ""})
    code, _, error = call("doctor", str(folder), "--against", str(record))
    assert code == 2 and "holds no fingerprint" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give either the folder of a released model, or a parity folder"),
        (["FOLDER", "--fixture", "FOLDER"], "Give either the folder"),
        (["--fixture", "FOLDER", "--record", "a.json"], "A parity folder has no fingerprint"),
        (["FOLDER"], "holds no model"),
        (["nowhere"], "nor does it exist"),
        (["FOLDER", "--against", "nowhere.json"], "There is no file nowhere.json"),
    ],
)
def test_mistakes_take_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
):
    code, _, error = call("doctor", *(str(tmp_path) if word == "FOLDER" else word for word in arguments))
    assert code == 2 and message in error and error.count("\n") == 1
