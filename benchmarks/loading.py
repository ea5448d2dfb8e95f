"""Peak host memory while a checkpoint is loaded, over the size of the model in memory, for each layout of a release.

A process of its own loads a small checkpoint of the layout first, so that imports and allocators are warm; what it holds then is
the baseline. Run: python benchmarks/loading.py [MEGABYTES]
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import torch
from harness import ARGUMENTS, SMOKE, held, keep, memory, printed_number
from safetensors.torch import save_file
from transformers import Qwen2Config

from latentbridge.config import BackboneConfig, MarConfig, ModelConfig, TinyBagelConfig, TinyJanusConfig
from latentbridge.models.backbones.harmon.load_harmon import Sizes, load_harmon
from latentbridge.models.checkpoint import load, outline, save_model
from latentbridge.models.weights import Placement

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # the tests have writers of all layouts
MEGABYTES, SMALL_MEGABYTES, ROUNDS = (40, 8, 1) if SMOKE else (2000, 20, 2)
"""Size of a checkpoint in float32, and of the one that is loaded before."""
DTYPES = ("bfloat16", "float32")
_WIDTH, _HEADS = 512, 8


def built(config: Any) -> Any:
    """A model whose weights are whatever lies in memory."""
    return outline(config).to_empty(device="cpu")


def layers(megabytes: int, squares: int) -> int:
    """How many layers of `squares` times the squared width make a checkpoint of that size."""
    return max(1, round(megabytes * 2**20 / 4 / (squares * _WIDTH**2)))


def backbone(megabytes: int, **settings: Any) -> ModelConfig:
    sizes = BackboneConfig(
        hidden_size=_WIDTH,
        num_layers=layers(megabytes, squares=15),
        num_heads=_HEADS,
        num_kv_heads=_HEADS // 2,
        intermediate_size=4 * _WIDTH,
        **settings,
    )
    return ModelConfig(parts=("backbone",), backbone=sizes)


def write_ours(megabytes: int, folder: Path) -> None:
    model = built(backbone(megabytes))
    model.backbone.model.tie_weights()
    save_model(model, folder)


def write_qwen(megabytes: int, folder: Path) -> None:
    from tests.models.qwen_vl.tiny_releases import template

    model = built(backbone(megabytes)).bfloat16()
    model.backbone.model.tie_weights()
    model.backbone.model.save_pretrained(folder, max_shard_size=f"{max(megabytes // 8, 1)}MB")
    model.tokenizer.chat_template = template(default_system=True)
    model.tokenizer.save_pretrained(folder)


def write_bagel(megabytes: int, folder: Path) -> None:
    from tests.models.backbones import release_layouts

    sizes = TinyBagelConfig(width=_WIDTH, num_layers=layers(megabytes, squares=43), num_heads=_HEADS, autoencoder="kl")
    model = built(sizes)
    model.language_model.lm_head.weight = torch.nn.Parameter(model.language_model.lm_head.weight.detach().clone())
    release_layouts.write_bagel(model, folder)


def write_janus(megabytes: int, folder: Path, pickled: bool) -> None:
    from tests.models.backbones import release_layouts

    model = built(TinyJanusConfig(width=_WIDTH, num_layers=layers(megabytes, squares=28), num_heads=_HEADS)).bfloat16()
    sizes = model.model.config
    tensors = {name: tensor.clone() for name, tensor in release_layouts.authors_tensors(model.model).items()}
    if pickled:
        release_layouts.write_pickles(tensors, folder, with_index=True)
    else:
        save_file(tensors, folder / "model.safetensors")
    config = release_layouts.authors_config(sizes, sizes.vision_config.depth, "unknown", heads=_HEADS)
    (folder / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        copyfile(ROOT / "tests" / "golden" / "janus" / file, folder / file)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_size": sizes.vision_config.image_size}))


def harmon_sizes(megabytes: int) -> Sizes:
    count = layers(megabytes, squares=15 + 24)
    words = Qwen2Config(
        hidden_size=_WIDTH,
        num_hidden_layers=count,
        num_attention_heads=_HEADS,
        num_key_value_heads=_HEADS // 2,
        intermediate_size=4 * _WIDTH,
        vocab_size=8000,
        tie_word_embeddings=True,
    )
    mar = MarConfig(width=_WIDTH, num_layers=count, num_heads=_HEADS, num_buffers=64, learned_variances=True)
    return Sizes(words, mar, vae_channels=32)


def write_harmon(megabytes: int, folder: Path, plain: bool) -> None:
    from tests.models.backbones import release_layouts

    shapes = release_layouts.harmon_shapes(harmon_sizes(megabytes))
    release_layouts.write_harmon({name: torch.empty(shape) for name, shape in shapes.items()}, folder, plain)


WRITERS: dict[str, Callable[[int, Path], None]] = {
    "ours": write_ours,
    "qwen2-vl": write_qwen,
    "bagel": write_bagel,
    "janus .bin": partial(write_janus, pickled=True),
    "janus safetensors": partial(write_janus, pickled=False),
    "harmon .pth": partial(write_harmon, plain=True),
    "harmon safetensors": partial(write_harmon, plain=False),
}


def write(layout: str, megabytes: int, folder: Path) -> None:
    """Write the checkpoint of a layout, and the small one beside it."""
    for name, size in (("large", megabytes), ("small", SMALL_MEGABYTES)):
        (folder / name).mkdir()
        WRITERS[layout](size, folder / name)


def peak(layout: str, megabytes: int, folder: Path, dtype: str, quantize: Any) -> float:
    """Memory at the peak of loading the large checkpoint in `folder`, over that of the model's weights."""

    def loaded(name: str, size: int) -> Any:
        if layout.startswith("harmon"):  # sizes that are not released
            placement = Placement(getattr(torch, dtype), quantize=quantize)
            return load_harmon(folder / name, [harmon_sizes(size)], placement)
        return load(folder / name, dtype=dtype, quantize=quantize)

    loaded("small", SMALL_MEGABYTES)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = memory("VmRSS")
    model = loaded("large", megabytes)
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    return (memory("VmHWM") - before) * 2**20 / sum(tensors.values())


def main() -> None:
    megabytes = int(ARGUMENTS[0]) if ARGUMENTS else MEGABYTES
    targets, details = [], {"checkpoint in float32, MB": megabytes}
    for layout in WRITERS:
        with TemporaryDirectory() as folder:
            printed_number(__file__, "write", layout, str(megabytes), folder)
            for dtype in DTYPES:
                arguments = ("peak", layout, str(megabytes), folder, dtype)
                ratios = [printed_number(__file__, *arguments) for _ in range(ROUNDS)]
                targets.append(held(f"{layout}, {dtype}: peak / size of the model", ratios, most=1.1))
    keep(__file__, targets, details)


if __name__ == "__main__":
    if ARGUMENTS[:1] == ["write"]:
        write(ARGUMENTS[1], int(ARGUMENTS[2]), Path(ARGUMENTS[3]))
        print(0)
    elif ARGUMENTS[:1] == ["peak"]:
        layout, size, folder, dtype, *quantize = ARGUMENTS[1:]
        print(peak(layout, int(size), Path(folder), dtype, quantize[0] if quantize else None))
    else:
        main()
