from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.models.backbones.release_layouts import PLAIN, harmon_shapes, write_harmon
from torch import Tensor
from transformers import Qwen2Config

from latentbridge.config import MarConfig
from latentbridge.errors import UserError
from latentbridge.models.backbones.harmon.load_harmon import (
    HARMON_0_5B,
    HARMON_1_5B,
    Sizes,
    convert_key,
    is_harmon,
    load_harmon,
)
from latentbridge.models.backbones.harmon.mar import MaskedDecoder, MaskedEncoder, TokenDenoiser
from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
from latentbridge.models.backbones.harmon.pictures import pad_and_resize
from latentbridge.models.checkpoint import ASSETS, load
from latentbridge.models.tokenization import load_tokenizer
from latentbridge.models.weights import Placement, cast_weights
from latentbridge.rng import torch_rng
from latentbridge.types import Conversation

CHANNELS, WIDTH, HEAD, VAE = 5, 28, 31, 32
SIZES = Sizes(
    Qwen2Config(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=48,
        vocab_size=len(load_tokenizer(ASSETS / "tokenizer")),
        tie_word_embeddings=True,
    ),
    MarConfig(
        width=WIDTH,
        num_layers=1,
        num_heads=2,
        grid=2,
        channels=CHANNELS,
        num_buffers=3,
        head_width=HEAD,
        head_layers=1,
        learned_variances=True,
    ),
    VAE,
    image_size_px=64,
)
EMBEDDINGS = "llm.model.embed_tokens.weight"
QUICK = {"steps": 2, "denoising_steps": 3}


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    """Random tensors in the released layout; the language model's come from a model of that size."""
    shapes = harmon_shapes(SIZES)
    rng = torch_rng(0, "released")
    return {
        name: torch.randn(shape, generator=rng) * (1 if len(shape) < 2 else shape[1:].numel() ** -0.5)
        for name, shape in shapes.items()
    }


@pytest.fixture
def plain(released: dict[str, Tensor], tmp_path: Path) -> Path:
    """A folder in GitHub's layout."""
    write_harmon(released, tmp_path, plain=True)
    return tmp_path


@pytest.fixture
def folder(released: dict[str, Tensor], tmp_path: Path) -> Path:
    write_harmon(released, tmp_path, plain=False)
    return tmp_path


@torch.no_grad()
def test_a_released_folder_is_read_whole(folder: Path, released: dict[str, Tensor]):
    harmon = load_harmon(folder, [HARMON_1_5B, SIZES], Placement(torch.float32))
    state = harmon.state_dict()
    used = released.keys() - {"mar.class_emb.weight"}
    assert len({convert_key(name) for name in used}) == len(used)
    assert set(state) == {convert_key(name) for name in used} | {"language_model.lm_head.weight"}
    assert torch.equal(state["encoder.blocks.0.qkv.weight"], released["mar.encoder_blocks.0.attn.qkv.weight"])
    assert torch.equal(state["head.out.weight"], released["mar.diffloss.net.final_layer.linear.weight"])
    assert torch.equal(
        state["autoencoder.vae.decoder.up_blocks.1.resnets.2.conv1.weight"],
        released["vae.decoder.up.3.block.2.conv1.weight"],
    )
    assert harmon.language_model.lm_head.weight is harmon.language_model.model.embed_tokens.weight
    latents = harmon.gen_latent(["a star"])
    assert latents.shape == (1, 16 * WIDTH) and harmon.roundtrip(latents).isfinite().all()
    assert harmon.generate("a star", **QUICK).picture.shape == (64, 64, 3)


def test_the_plain_layout_holds_the_same_model(plain: Path, released: dict[str, Tensor]):
    state = load_harmon(plain, [SIZES], Placement(torch.float32)).state_dict()
    used = {convert_key(name): tensor for name, tensor in released.items() if name != "mar.class_emb.weight"}
    assert state.keys() == used.keys() | {"language_model.lm_head.weight"}
    assert all(torch.equal(state[name].flatten(), tensor.flatten()) for name, tensor in used.items())


def test_one_of_several_models_is_named_by_its_file(plain: Path):
    (plain / "harmon_1.5b-o.pth").write_bytes((plain / PLAIN).read_bytes())
    with pytest.raises(UserError, match=r"several models \(harmon_1.5b-o.pth, harmon_1.5b.pth\); give the path of one"):
        load_harmon(plain, [SIZES])
    assert is_harmon(plain / PLAIN) and load_harmon(plain / PLAIN, [SIZES]).kind == "harmon"


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("kl16.ckpt", "holds harmon_1.5b.pth but no kl16.ckpt; download it from .* wusize/harmon"),
        ("tokenizer.json", "holds no tokenizer.json; download the tokenizer of Qwen/Qwen2.5-1.5B-Instruct"),
    ],
)
def test_a_plain_folder_says_what_is_missing_and_where_it_is(plain: Path, missing: str, message: str):
    (plain / missing).unlink()
    assert is_harmon(plain)
    with pytest.raises(UserError, match=message):
        load_harmon(plain, [SIZES])


@pytest.mark.parametrize("name", [PLAIN, "kl16.ckpt"])
@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"model": {"x": torch.zeros(1)}, "more": Path("/")}, "holds more than tensors, so it could run code"),
        ({"model": 3}, "holds no state dict"),
        (torch.zeros(1), "holds no state dict"),
    ],
)
def test_a_file_of_other_things_than_tensors_is_refused(plain: Path, name: str, stored: Any, message: str):
    torch.save(stored, plain / name)
    with pytest.raises(UserError, match=f"{name} {message}"):
        load_harmon(plain, [SIZES])


def test_output_embeddings_must_be_the_tied_ones(plain: Path, released: dict[str, Tensor]):
    tensors = {name: tensor for name, tensor in released.items() if not name.startswith("vae.")}
    torch.save(tensors | {"llm.lm_head.weight": tensors[EMBEDDINGS].clone()}, plain / PLAIN)
    load_harmon(plain, [SIZES])
    torch.save(tensors | {"llm.lm_head.weight": tensors[EMBEDDINGS] + 1}, plain / PLAIN)
    with pytest.raises(UserError, match="output embeddings of its own"):
        load_harmon(plain, [SIZES])


# --- what users ask of a release -----------------------------------------------------------------


@pytest.fixture(scope="module")
def harmon(released: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Harmon:
    """A released Harmon whose replies end; not to be changed."""
    folder = tmp_path_factory.mktemp("release")
    save_file(released, folder / "model.safetensors")
    load_tokenizer(ASSETS / "tokenizer").save_pretrained(folder)
    return load_harmon(folder, [SIZES], Placement(torch.float32))


def test_defaults_are_the_authors(harmon: Harmon):
    options = harmon.drawing_options
    assert (options.steps, options.guidance, options.sampler, options.temperature) == (64, 3.0, "ddpm", 1.0)
    assert options.num_denoising_steps == 100 and harmon.reply_options.max_tokens == 1024
    assert replace(options, sampler="ddim").num_denoising_steps == 25


def test_drawings_have_any_size_of_whole_tokens(harmon: Harmon):
    assert harmon.generate("a star", size=(48, 80), **QUICK).picture.shape == (80, 48, 3)
    for size, written in [((40, 64), "40x64"), ((64,), "64"), ((0, 16), "0x16")]:
        with pytest.raises(UserError, match=f"multiples of 16 pixels, not {written};"):
            harmon.generate("a star", size=size, **QUICK)


def test_the_samplers_have_names_and_differ(harmon: Harmon):
    def drawn(**options: Any) -> np.ndarray:
        return harmon.generate("a star", seed=4, **{**QUICK, **options}).picture.astype(int)

    stochastic = drawn()
    assert np.array_equal(drawn(sampler="ddpm"), stochastic) and not np.array_equal(drawn(sampler="ddim"), stochastic)
    assert not np.array_equal(drawn(temperature=0.5), stochastic)
    assert not np.array_equal(drawn(guidance_schedule="linear"), stochastic)
    with pytest.raises(UserError, match="sampler"):
        drawn(sampler="euler")
    with pytest.raises(UserError, match='2 denoising steps or more; set sampler="ddim"'):
        drawn(denoising_steps=1)


def test_a_model_without_learned_variances_refuses_the_stochastic_sampler(small_harmon: Harmon):
    with pytest.raises(UserError, match='takes learned variances.*sampler="ddim"'):
        small_harmon.generate("a star", sampler="ddpm")


def test_a_drawing_does_not_depend_on_its_batch(harmon: Harmon):
    texts, seeds = ["a star", "three large blue circles on the left"], [7, 3]
    together = harmon.generate(texts, seeds, **QUICK)
    for text, seed, result in zip(texts, seeds, together, strict=True):
        alone = harmon.generate(text, seed, **QUICK).picture
        assert np.abs(alone.astype(int) - result.picture).max() <= 1
    other = harmon.generate("a star", 8, **QUICK).picture
    assert np.abs(other.astype(int) - together[0].picture).max() > 1


def test_pictures_of_any_shape_are_read_at_any_size_of_whole_tokens(harmon: Harmon):
    picture = np.random.default_rng(0).integers(0, 256, (30, 70, 3), np.uint8)
    conversation = Conversation.with_picture((("What?", ""),), picture)
    sizes = [harmon.reply([conversation], max_tokens=3, picture_size_px=size)[0].token_ids for size in (0, 64, 96)]
    assert sizes[0] == sizes[1] and len(sizes[2]) <= 3
    with pytest.raises(UserError, match="multiples of 16 pixels, not 70"):
        harmon.reply([conversation], picture_size_px=70)


def test_pictures_are_padded_with_grey_and_resized_by_pillows_default():
    picture = np.full((2, 6, 3), 255, np.uint8)
    assert np.array_equal(pad_and_resize(picture, 6)[:, 0, 0], [127, 127, 255, 255, 127, 127])
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    assert np.array_equal(pad_and_resize(noise, 4), np.asarray(Image.fromarray(noise).resize((4, 4), Image.BICUBIC)))


def test_conversations_hold_several_pictures_and_turns(harmon: Harmon, three_pictures: list[np.ndarray]):
    turns = (("Compare.", "They differ."), ("And this?", ""))
    pictures = ((three_pictures[0], three_pictures[1]), (three_pictures[2],))
    conversation = Conversation(turns, pictures, system="Be brief.")
    ids = harmon.prompts.conversation(conversation, 16, open_ended=True).ids
    image = "<|image_pad|>" * (16 + 3) + "\n"
    assert harmon.tokenizer.decode(ids) == (
        f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{image}{image}Compare.<|im_end|>\n"
        f"<|im_start|>assistant\nThey differ.<|im_end|>\n<|im_start|>user\n{image}And this?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert len(harmon.reply([conversation], max_tokens=4)[0].token_ids) <= 4
    swapped = Conversation(turns, ((three_pictures[1], three_pictures[0]), (three_pictures[2],)), system="Be brief.")
    assert not torch.equal(last_states(harmon, conversation), last_states(harmon, swapped)), "each in its place"


def last_states(harmon: Harmon, conversation: Conversation) -> Tensor:
    rows = harmon._pad([harmon.prompts.conversation(conversation, 16, open_ended=True).ids])
    features = harmon._encode_image(harmon._encode_pictures(conversation.all_pictures))
    return harmon._hidden(harmon._embed_tokens(rows, features), rows.mask)[:, -1]


def test_it_works_in_bfloat16(harmon: Harmon, three_pictures: list[np.ndarray]):
    for whole in (False, True):  # the autoencoder stays in float32 unless the caller wants it otherwise
        model = copy.deepcopy(harmon)
        cast_weights(model, torch.bfloat16)
        model = model.bfloat16() if whole else model
        assert model.generate("a star", **QUICK).picture.shape == (64, 64, 3)
        assert isinstance(model.understand(three_pictures[0], "What?", max_tokens=2), str)
        vectors = [each.embed(images=three_pictures[0]) for each in (model, harmon)]
        assert float(vectors[0] @ vectors[1]) > 0.99


def test_weights_have_the_authors_type_by_default(plain: Path):
    model = load_harmon(plain, [SIZES])
    assert model.dtype == model.head.out.weight.dtype == torch.bfloat16
    assert next(model.autoencoder.parameters()).dtype == torch.float32


def test_training_reaches_noise_and_variances(harmon: Harmon, three_pictures: list[np.ndarray]):
    model = copy.deepcopy(harmon)
    model.generation_loss(["a star"] * 3, three_pictures, torch_rng(0, "loss")).backward()
    gradient = model.head.out.weight.grad
    assert gradient is not None and all(half.abs().max() > 0 for half in gradient.chunk(2))


# --- what is refused -----------------------------------------------------------------------------


def test_a_tensor_too_few_or_too_many_is_refused_by_name(folder: Path, released: dict[str, Tensor]):
    save_file({"mar.surprise": torch.zeros(1)}, folder / "more.safetensors")
    with pytest.raises(UserError, match=r"1 tensors .* \(first: mar.surprise\)"):
        load_harmon(folder, [SIZES])
    less = {name: tensor for name, tensor in released.items() if name != "mar.mask_token"}
    for path in folder.glob("*.safetensors"):
        path.unlink()
    save_file(less, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"1 tensors .* \(first: decoder.mask\)"):
        load_harmon(folder, [SIZES])


def test_commands_find_it_by_its_tensors(folder: Path):
    with pytest.raises(UserError, match="holds no Harmon of 0.5 or 1.5"):  # one, but of a size that was never released
        load(folder)


def test_a_folder_of_something_else_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match="holds no Harmon of 0.5 or 1.5"):
        load_harmon(folder)
    with pytest.raises(UserError, match="holds no .safetensors"):
        load_harmon(tmp_path / "nothing")


@pytest.mark.parametrize(("sizes", "published"), [(HARMON_0_5B, 208e6), (HARMON_1_5B, 943e6)])
def test_sizes_add_up_to_those_published(sizes: Sizes, published: float):
    """MAR-B and MAR-H have 208 and 943 million parameters (MAR), a thousand class embeddings among them."""
    mar = sizes.mar
    with torch.device("meta"):
        parts = [MaskedEncoder(mar), MaskedDecoder(mar), TokenDenoiser(mar)]
    count = sum(parameter.numel() for part in parts for parameter in part.parameters()) + 1000 * mar.width
    assert count == pytest.approx(published, rel=0.003)
