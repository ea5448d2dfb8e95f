"""Checks of a release's folder against its record, and of what silently makes a model worse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from math import prod
from typing import Any, Literal, NamedTuple

from latentbridge.config import OMNIBRIDGE_8B, QWEN2_VL_7B, ModelConfig, NetworkConfig, ReleaseConfig
from latentbridge.errors import UserError
from latentbridge.files import read_json
from latentbridge.models.checkpoint import outline
from latentbridge.models.doctor.records import RECORDS
from latentbridge.models.doctor.release_folder import ReleaseFolder
from latentbridge.models.exporting import release_files
from latentbridge.models.omnibridge.load_hunyuan_dit import is_decoder
from latentbridge.models.omnibridge.load_omnibridge import set_release_defaults
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.generation import read_generation
from latentbridge.models.qwen_vl.release import read_chat_template
from latentbridge.models.tokenization import load_tokenizer

Status = Literal["ok", "warning", "wrong", "unknown"]
_OUTLINES: Mapping[str, NetworkConfig] = {
    "omnibridge-8b": OMNIBRIDGE_8B,
    "qwen2-vl-7b": ModelConfig(parts=("backbone",), backbone=QWEN2_VL_7B),
}
"""Configs of the records' outlines that are not kinds of a `ReleaseConfig`."""
_TIED = "llm.lm_head.weight"
"""The head of Harmon's language model, which is tied and may be stored or not."""
_AUTOENCODERS = ("vae.", "encoder.", "decoder.", "gen_vision_model.", "model.vqmodel.")
_FLOATS = ("bfloat16", "float16", "float32")
_SYSTEM_PROMPT = "You are a helpful assistant."
"""The system prompt of Qwen2-VL's chat template."""
_SCHEDULE = {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "steps_offset": 1}
"""The noise schedule of the decoder, as OmniBridge's authors set it (spec 2.2 step 7)."""


class Check(NamedTuple):
    """The outcome of one check."""

    status: Status
    subject: str
    message: str


def check_release(folder: ReleaseFolder) -> Iterator[Check]:
    """Yield what is right, worse than released, wrong or unknown about a folder."""
    if record := folder.record:
        yield Check("ok", "release", f"{record.name}, recorded from {record.source}")
    else:
        yield Check(
            "unknown",
            "release",
            f"{folder.family} of a size that is not recorded; its tensors are compared when it loads",
        )
    if folder.problem:
        yield Check("wrong", "weights", folder.problem)
    else:
        size = sum(path.stat().st_size for path in folder.files) / 1e9
        yield Check("ok", "weights", f"{len(folder.files)} files of {size:.2f} GB, whole by their headers")
        yield from _check_tensors(folder)
        yield from _check_dtypes(folder)
    for part in (_check_settings, _check_tokenizer, _check_template, _check_generation, _check_drawing, _check_bridge):
        yield from part(folder)


def _check_tensors(folder: ReleaseFolder) -> Iterator[Check]:
    """Compare names and shapes with those of the model that the record builds."""
    if folder.record is None:
        return
    files = release_files(record_model(folder.record.outline), folder.layout)
    expected = {name: tensor.shape for tensors in files.weights.values() for name, tensor in tensors.items()}
    stored = {name: each.shape for name, each in folder.outlines.items() if not name.startswith(files.unused or "\0")}
    if folder.family == "harmon":
        expected.pop(_TIED, None)
        stored.pop(_TIED, None)
    differences = {
        "missing": sorted(expected.keys() - stored.keys()),
        "not of this release": sorted(stored.keys() - expected.keys()),
        "of another shape": [
            name
            for name in sorted(expected.keys() & stored.keys())
            if prod(expected[name]) != prod(stored[name]) and not _has_more_words(name, expected[name], stored[name])
        ],
    }
    for words, names in differences.items():
        if names:
            yield Check("wrong", "tensors", f"{len(names)} are {words}: {_some(names)}")
    if not any(differences.values()):
        yield Check("ok", "tensors", f"{len(stored)} with the names and shapes of the release")


def _has_more_words(name: str, expected: Sequence[int], stored: Sequence[int]) -> bool:
    """Return whether tables of words differ in the number of rows alone, which is checked with the tokenizer."""
    return name.endswith(("embed_tokens.weight", "lm_head.weight")) and expected[1:] == stored[1:]


@cache
def record_model(kind: str) -> Any:
    """Return the model of a record's outline on the meta device, with the release's defaults."""
    model = outline(_OUTLINES.get(kind) or ReleaseConfig(kind))  # pyright: ignore[reportArgumentType]
    if isinstance(model, OmniBridge) and "bridge" in model.config.parts:
        set_release_defaults(model)
    return model


def _check_dtypes(folder: ReleaseFolder) -> Iterator[Check]:
    weights = {each.dtype for name, each in folder.outlines.items() if not name.startswith(_AUTOENCODERS)}
    found = ", ".join(sorted(weights))
    recorded = folder.record.dtype if folder.record else ""
    if odd := sorted(weights.difference(_FLOATS)):
        yield Check("wrong", "dtype", f"weights are {', '.join(odd)}: a quantised copy, which does not load here")
    elif not recorded:
        yield Check("unknown", "dtype", f"{found}; none is recorded")
    elif weights == {recorded}:
        yield Check("ok", "dtype", found)
    else:
        yield Check("warning", "dtype", f"{found}, where the release has {recorded}; numbers differ by rounding")


def _check_settings(folder: ReleaseFolder) -> Iterator[Check]:
    """Compare sizes, positions and the resize rule with the values recorded for the folder's JSON files."""
    for name, recorded in (folder.record.configs if folder.record else {}).items():
        if not (folder.path / name).is_file():
            yield Check("wrong", name, "is missing; download it again")
            continue
        found = {key: _look_up(folder.config(name), key) for key in recorded}
        wrong = [
            f"{key} is {found[key]}, recorded {value}"
            for key, value in recorded.items()
            if found[key] is not None and found[key] != value
        ]
        absent = [key for key in recorded if found[key] is None]
        if wrong:
            yield Check("wrong", name, "; ".join(wrong))
        if absent:
            yield Check("unknown", name, f"does not state {', '.join(absent)}")
        if not wrong and len(absent) < len(recorded):
            yield Check("ok", name, ", ".join(key for key in recorded if found[key] is not None))


def _look_up(values: Mapping[str, Any], key: str) -> Any:
    """Return a nested value of a config, in the places where versions of transformers have it; None if it is nowhere."""
    leaf = key.rpartition(".")[2]
    places = (key, f"rope_parameters.{leaf}", f"params.{key}")
    for start in (values, values.get("text_config"), values.get("image_processor")):
        for place in places:
            found: Any = start
            for part in place.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
            if found is not None:
                return found
    return None


def _check_tokenizer(folder: ReleaseFolder) -> Iterator[Check]:
    known = folder.tokens
    if known is None:
        yield Check("wrong", "tokenizer", "tokenizer.json is missing or damaged; download it again")
        return
    recorded = folder.record.tokens if folder.record else _tokens_of(folder)
    missing = [name for name in recorded if name not in known]
    if recorded and len(missing) == len(recorded):
        yield Check("wrong", "tokenizer", f"belongs to another family of models: it has none of {_some(missing)}")
        return
    plain = [name for name in recorded if name in known and not known[name].is_special]
    moved = [
        f"{name} is {known[name].id}, recorded {index}"
        for name, index in recorded.items()
        if index is not None and name in known and known[name].id != index
    ]
    rows = folder.words.shape[0] if folder.words else None
    beyond = max(token.id for token in known.values()) if known else 0
    if missing:
        yield Check("wrong", "tokenizer", f"lacks special tokens: {_some(missing)}")
    if plain:
        yield Check("wrong", "tokenizer", f"splits what must be special tokens: {_some(plain)}")
    if moved:
        yield Check("wrong", "tokenizer", f"has special tokens with other ids: {'; '.join(moved)}")
    if rows is not None and beyond >= rows:
        yield Check("wrong", "tokenizer", f"has ids up to {beyond}, but the word embeddings have {rows} rows")
    elif not (missing or plain or moved):
        ids = sum(index is not None for index in recorded.values())
        rest = f", {ids} with the recorded ids" if ids else ""
        yield Check("ok", "tokenizer", f"{len(known)} tokens; {len(recorded)} special ones{rest}")


def _tokens_of(folder: ReleaseFolder) -> Mapping[str, int | None]:
    """Return the special tokens that all releases of a family have, without ids."""
    record = next((record for record in RECORDS if record.family == folder.family), None)
    return dict.fromkeys(record.tokens) if record else {}


def _check_template(folder: ReleaseFolder) -> Iterator[Check]:
    if folder.tokens is None:
        return
    if folder.family not in ("omnibridge", "qwen-vl"):
        yield Check(
            "ok", "chat template", "written by this package as by the authors' code; none is read from the folder"
        )
        return
    try:
        system, prefix = read_chat_template(folder.path, load_tokenizer(folder.path))
    except UserError as error:
        yield Check("wrong", "chat template", str(error))
        return
    named = f"system prompt {system!r}{f', replies open with {prefix!r}' if prefix else ''}"
    if folder.record and system != _SYSTEM_PROMPT:
        yield Check("warning", "chat template", f"{named}; the release has {_SYSTEM_PROMPT!r}")
    else:
        yield Check("ok", "chat template", named)


def _check_generation(folder: ReleaseFolder) -> Iterator[Check]:
    path = folder.path / "generation_config.json"
    if not path.is_file():
        yield Check(
            "unknown", "generation settings", "no generation_config.json; replies follow this package's defaults"
        )
        return
    values = read_json(path)
    penalty, guidance = values.get("repetition_penalty"), values.get("guidance_scale")
    is_read = folder.family in ("omnibridge", "qwen-vl")
    if penalty not in (None, 1, 1.0):
        effect = "changes greedy replies too" if is_read else "is not applied here, but by transformers"
        yield Check("warning", "generation settings", f"repetition_penalty is {penalty}, which {effect}")
    if isinstance(guidance, (int, float)) and guidance <= 1:
        yield Check(
            "warning", "generation settings", f"guidance_scale is {guidance}, so transformers draws without guidance"
        )
    names = ("do_sample", "temperature", "top_p", "top_k")
    sampled = ", ".join(f"{name} {values[name]}" for name in names if name in values)
    yield Check("ok", "generation settings", sampled or "greedy")


def _check_drawing(folder: ReleaseFolder) -> Iterator[Check]:
    """Compare the defaults of this package with the authors', where they are recorded."""
    record = folder.record
    if record is None:
        return
    model = record_model(record.outline) if record.drawing or record.replies else None
    for subject, recorded, options in (
        ("drawing", record.drawing, getattr(model, "drawing_options", None)),
        ("replies", record.replies, _reply_options(folder, model)),
    ):
        wrong = [
            f"{name} is {getattr(options, name)}, recorded {value}"
            for name, value in recorded.items()
            if getattr(options, name) != value
        ]
        if recorded.get("guidance", 9) > 1 >= getattr(options, "guidance", 9):
            wrong.append("guidance is off")
        if wrong:
            yield Check("wrong", subject, "; ".join(wrong))
        elif recorded:
            yield Check("ok", subject, ", ".join(f"{name} {value}" for name, value in recorded.items()))


def _reply_options(folder: ReleaseFolder, model: Any) -> Any:
    """Return the options of replies that the folder's model has; a Qwen-VL takes them from its generation settings."""
    if folder.family not in ("omnibridge", "qwen-vl"):
        return getattr(model, "reply_options", None)
    path = folder.path / "generation_config.json"
    return read_generation(path.read_text() if path.is_file() else "", end_of_turn=0)[0]


def _check_bridge(folder: ReleaseFolder) -> Iterator[Check]:
    """Check what an OmniBridge has beside a Qwen2-VL: the mark of the bridge in its config, and the decoder."""
    if folder.family != "omnibridge":
        return
    marked = "mm_added_mlp" in folder.config("config.json")
    if not any(name.startswith("bilm.") for name in folder.outlines):
        yield Check("wrong", "bridge", "config.json has mm_added_mlp, but no tensor belongs to a bridge (bilm.)")
    elif marked:
        yield Check("ok", "bridge", "config.json has mm_added_mlp")
    else:
        yield Check(
            "warning",
            "bridge",
            "config.json lacks mm_added_mlp: it loads here, but the authors' code drops the bridge in silence",
        )
    decoder = folder.path / "decoder"
    scheduler = decoder / "scheduler" / "scheduler_config.json"
    if not is_decoder(decoder):
        yield Check("warning", "decoder", "there is no decoder/ with a HunyuanDiT, so it neither draws nor edits")
    elif scheduler.is_file():
        values = read_json(scheduler)
        wrong = [
            f"{key} is {values.get(key)}, recorded {value}"
            for key, value in _SCHEDULE.items()
            if values.get(key) != value
        ]
        yield Check("wrong" if wrong else "ok", "decoder", "; ".join(wrong) or "its noise schedule is the recorded one")
    else:
        yield Check("ok", "decoder", "in Tencent's layout, whose noise schedule this package sets")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
