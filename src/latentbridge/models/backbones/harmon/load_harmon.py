"""Loading of Harmon's releases in both published layouts.

GitHub's (the Hugging Face repository wusize/harmon): `harmon_*.pth`, a state dict without the autoencoder, and `kl16.ckpt`,
`{"model": ...}`, with the tokenizer of Qwen2.5-Instruct beside them. The hub's (wusize/Harmon-1_5B): one folder of safetensors with
the autoencoder as `vae.`. Names, sizes and values were verified against the authors' classes of wusize/Harmon at 4eb6087
(`src/models`, `configs/models`) at a tiny width; the listing of the hub's folder was not seen. Loading is strict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from latentbridge.config import MarConfig, ReleaseConfig
from latentbridge.errors import UserError
from latentbridge.models.autoencoder import KLAutoencoder, kl_network
from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
from latentbridge.models.backbones.harmon.options import HarmonDrawingOptions, HarmonReplyOptions
from latentbridge.models.backbones.names import NameTable, attention_to_linear, vae_rules
from latentbridge.models.diffusion import Scheduler
from latentbridge.models.omnibridge.load_omnibridge import check_state_dict, open_tensors, tensor_names
from latentbridge.models.stored_tensor import StoredTensor
from latentbridge.models.tensors import open_pickled
from latentbridge.models.tokenization import load_tokenizer
from latentbridge.models.weights import AS_STORED, Placement, assign_weights, empty_weights

_GRID = 16
"""Side of the grid of learned positions: 256 px in squares of 16."""
_IMAGE_SIZE_PX = 512
"""Side of pictures in the authors' scripts."""
_MAX_TOKENS = 1024
"""Longest answer in the authors' scripts."""


class Sizes(NamedTuple):
    """Sizes of one released Harmon."""

    language_model: Qwen2Config
    mar: MarConfig
    vae_channels: int = 128
    image_size_px: int = _IMAGE_SIZE_PX
    """Side of pictures that are read and drawn by default."""


def _qwen2_5(width: int, num_layers: int, num_heads: int, intermediate_size: int) -> Qwen2Config:
    return Qwen2Config(
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=2,
        intermediate_size=intermediate_size,
        vocab_size=151936,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    )


HARMON_0_5B = Sizes(
    _qwen2_5(896, 24, 14, 4864),
    MarConfig(768, 12, 12, _GRID, 16, 64, 1024, 6, learned_variances=True),
)
HARMON_1_5B = Sizes(
    _qwen2_5(1536, 28, 12, 8960),
    MarConfig(1280, 20, 16, _GRID, 16, 64, 1536, 12, learned_variances=True),
)
"""Qwen2.5 of 1.5 billion parameters with MAR-H (0.5 billion with MAR-B above)."""

UNUSED = "mar.class_emb.weight"
"""MAR's class embeddings, which every checkpoint holds and Harmon's forward pass never reads."""
TIED = "language_model.lm_head.weight"
_EMBEDDINGS = "language_model.model.embed_tokens.weight"
AUTOENCODER_FILE = "kl16.ckpt"
_VAE_SCALE = 0.2325
_VAE_LEVELS = 5
_VAE = "autoencoder.vae."
_FLAT = ("encoder.buffer", "decoder.mask")
_HEAD = "mar.diffloss.net."
NAMES = NameTable(
    (
        ("llm.", "language_model."),
        ("mar.z_proj.", "encoder.embed."),
        ("mar.z_proj_ln.", "encoder.input_norm."),
        ("mar.fake_latent$", "encoder.buffer$"),
        ("mar.mask_token$", "decoder.mask$"),
        ("mar.decoder_embed.", "decoder.embed."),
        ("mar.diffusion_pos_embed_learned$", "decoder.head_positions$"),
        ("mar.{en|de}coder_pos_embed_learned$", "{en|de}coder.positions$"),
        (r"mar.{en|de}coder_blocks.{\d+}.attn.{qkv|proj}.", r"{en|de}coder.blocks.{\d+}.{qkv|proj}."),
        (r"mar.{en|de}coder_blocks.{\d+}.mlp.fc1.", r"{en|de}coder.blocks.{\d+}.mlp.0."),
        (r"mar.{en|de}coder_blocks.{\d+}.mlp.fc2.", r"{en|de}coder.blocks.{\d+}.mlp.2."),
        ("mar.{en|de}coder_{blocks|norm}.", "{en|de}coder.{blocks|norm}."),
        (f"{_HEAD}input_proj.", "head.embed."),
        (f"{_HEAD}cond_embed.", "head.embed_state."),
        (f"{_HEAD}time_embed.mlp.0.", "head.embed_time.linear_1."),
        (f"{_HEAD}time_embed.mlp.2.", "head.embed_time.linear_2."),
        (rf"{_HEAD}res_blocks.{{\d+}}.in_ln.", r"head.blocks.{\d+}.norm."),
        (rf"{_HEAD}res_blocks.{{\d+}}.adaLN_modulation.1.", r"head.blocks.{\d+}.modulation."),
        (f"{_HEAD}res_blocks.", "head.blocks."),
        (f"{_HEAD}final_layer.adaLN_modulation.1.", "head.modulation."),
        (f"{_HEAD}final_layer.linear.", "head.out."),
        *vae_rules(_VAE_LEVELS, "vae.", _VAE),
    )
)
"""The authors' names and ours."""


def convert_key(released: str) -> str:
    """Return our state-dict name of a released tensor, or the name itself if no rule matches."""
    return NAMES.to_ours(released)


def is_harmon(source: Path) -> bool:
    """Return whether a folder, or the `.pth` file itself, holds a language model and a MAR by names of files and tensors."""
    if _plain_files(source):
        return True
    groups = {name.partition(".")[0] for name in tensor_names(source)}
    return {"llm", "mar"} <= groups


def load_harmon(
    source: Path, known: Sequence[Sizes] = (HARMON_0_5B, HARMON_1_5B), placement: Placement = AS_STORED
) -> Harmon:
    """Load a released Harmon from a folder of either layout, or from a `.pth` among others in its folder.

    Every tensor must be known and present. Raise UserError, with nothing loaded, for anything else. Weights are by default in
    bfloat16, as in the authors' configs, the autoencoder's in float32.
    """
    folder = source.parent if source.is_file() else source
    released = _released_tensors(source)
    stored = {convert_key(name): tensor for name, tensor in released.items() if name != UNUSED}
    sizes = _find_sizes(stored, known, source)
    if not (folder / "tokenizer.json").exists():
        raise UserError(
            f"{folder} holds no tokenizer.json; download the tokenizer of Qwen/Qwen2.5-1.5B-Instruct into the folder."
        )
    with empty_weights():
        harmon = _build(sizes, _scheduler(), load_tokenizer(folder))
    head, words = stored.setdefault(TIED, stored[_EMBEDDINGS]), stored[_EMBEDDINGS]
    if head is not words and not (head.shape == words.shape and torch.equal(head.read(), words.read())):
        raise UserError(f"{source} has output embeddings of its own, but Harmon's are tied; download it again.")
    stored = {name: _convert_tensor(name, tensor) for name, tensor in stored.items()}
    check_state_dict(harmon, stored, folder)
    assign_weights(harmon, stored, placement, torch.bfloat16)
    return harmon.eval()


def build_released_harmon(config: ReleaseConfig, tokenizer: Qwen2Tokenizer) -> Harmon:
    """Build Harmon-0.5B or -1.5B with random weights, for pictures of 512 px."""
    sizes = HARMON_0_5B if config.kind == "harmon-0.5b" else HARMON_1_5B
    return _build(sizes, _scheduler(), tokenizer, config)


def _build(
    sizes: Sizes, scheduler: Scheduler, tokenizer: Qwen2Tokenizer, config: ReleaseConfig | None = None
) -> Harmon:
    return Harmon(
        Qwen2ForCausalLM(sizes.language_model),
        sizes.mar,
        KLAutoencoder(_kl16(sizes.vae_channels, sizes.mar.channels)),
        scheduler,
        tokenizer,
        HarmonDrawingOptions(),
        HarmonReplyOptions(max_tokens=_MAX_TOKENS),
        image_size_px=sizes.image_size_px,
        config=config,
    )


def _find_sizes(stored: Mapping[str, StoredTensor], known: Sequence[Sizes], source: Path) -> Sizes:
    """Return the known sizes whose language model is as wide as the stored embeddings."""
    embeddings = stored.get(_EMBEDDINGS)
    width = None if embeddings is None else embeddings.shape[-1]
    sizes = next((s for s in known if s.language_model.hidden_size == width), None)
    if sizes is None:
        raise UserError(f"{source} holds no Harmon of 0.5 or 1.5 billion parameters; give the folder of one.")
    return sizes


def _plain_files(source: Path) -> list[Path]:
    """Return the state dicts in GitHub's layout: the source itself if it is such a file."""
    return [source] if source.is_file() and source.suffix == ".pth" else sorted(source.glob("harmon*.pth"))


def _released_tensors(source: Path) -> dict[str, StoredTensor]:
    """Return the tensors of either layout under the authors' names, with the autoencoder's as `vae.`."""
    files = _plain_files(source)
    if not files:
        return open_tensors(source)
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise UserError(f"{source} holds several models ({names}); give the path of one of these files.")
    autoencoder = files[0].parent / AUTOENCODER_FILE
    if not autoencoder.exists():
        raise UserError(
            f"{files[0].parent} holds {files[0].name} but no {AUTOENCODER_FILE}; download it from the Hugging Face "
            "repository wusize/harmon into the folder."
        )
    return open_pickled(files[0]) | {f"vae.{name}": tensor for name, tensor in open_pickled(autoencoder).items()}


def _convert_tensor(name: str, tensor: StoredTensor) -> StoredTensor:
    """Return a released tensor in our shape.

    Learned positions and tokens lose their leading dimensions of size 1; the autoencoder's attention is a linear layer instead
    of a convolution.
    """
    if name in _FLAT:
        return tensor.converted(torch.flatten)
    if name.endswith("positions") and len(tensor.shape) == 3:
        return tensor.converted(lambda values: values[0])
    return attention_to_linear(name, tensor)


def _kl16(channels: int, latent_channels: int) -> AutoencoderKL:
    widths = [channels * times for times in (1, 1, 2, 2, 4)]
    return kl_network(widths, latent_channels, attention=True, layers_per_block=2, scaling_factor=_VAE_SCALE)


def _scheduler() -> Scheduler:
    """Return the scheduler of MAR's head (arXiv 2406.11838): a cosine schedule of 1000 steps, noise prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="epsilon",
        timestep_spacing="trailing",
        clip_sample=False,
    )
