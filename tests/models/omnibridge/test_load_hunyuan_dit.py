"""A HunyuanDiT folder in diffusers' layout, small but of the real classes, draws what diffusers' own pipeline draws."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
from safetensors.torch import load_file, save_file
from transformers import BertModel, BertTokenizer, T5EncoderModel, T5Tokenizer

import latentbridge
from latentbridge.config import ModelConfig
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import new_model, save_model
from latentbridge.models.omnibridge.decoder import CaptionEncoder
from latentbridge.models.omnibridge.load_hunyuan_dit import attach_decoder
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.rng import torch_rng

TEXTS, SEEDS = ["a red circle", "two blue stars"], [4, 9]
STEPS, GUIDANCE, SIZE_PX = 3, 2.0, 64
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]


def near(first: np.ndarray, second: np.ndarray) -> bool:
    """Equal to one level: batched products differ in their last bits, which may tip a rounding."""
    return int(np.abs(first.astype(int) - second.astype(int)).max()) <= 1


def draw(model: OmniBridge, texts=TEXTS, seed=SEEDS, **options):
    model.require("generate")
    return model.draw_descriptions(texts, seed, steps=STEPS, guidance=GUIDANCE, **options)


# --- against diffusers' pipeline ------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> HunyuanDiTPipeline:
    return HunyuanDiTPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=BertModel.from_pretrained(folder / "text_encoder"),
        tokenizer=BertTokenizer.from_pretrained(folder / "tokenizer"),
        transformer=HunyuanDiT2DModel.from_pretrained(folder / "transformer"),
        scheduler=DDPMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=T5EncoderModel.from_pretrained(folder / "text_encoder_2"),
        tokenizer_2=T5Tokenizer.from_pretrained(folder / "tokenizer_2"),
    )


def pipeline_draws(pipeline: HunyuanDiTPipeline, model: OmniBridge, **condition) -> list[np.ndarray]:
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(
        height=SIZE_PX,
        width=SIZE_PX,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=torch.stack([model.noise(seed) for seed in SEEDS]),
        generator=[torch_rng(seed, "sampling steps") for seed in SEEDS],
        use_resolution_binning=False,
        output_type="np",
        **condition,
    ).images
    return list((pictures * 255).round().astype(np.uint8))


@pytest.mark.parametrize(
    ("scheduler", "prediction"),
    [
        ("DDPMScheduler", "v_prediction"),  # fresh noise at every step
        ("EulerAncestralDiscreteScheduler", "epsilon"),  # likewise, and samples on a scale of their own
        ("DPMSolverMultistepScheduler", "v_prediction"),  # several steps' predictions in one
        ("DDIMScheduler", "epsilon"),
    ],
)
def test_text_conditioning_is_the_released_pipeline(model, pipeline, scheduler, prediction, monkeypatch):
    kind = getattr(diffusers, scheduler)
    changed = kind.from_config(model.scheduler.config, prediction_type=prediction)
    monkeypatch.setattr(model, "scheduler", changed)
    pipeline.scheduler = copy.deepcopy(changed)
    expected = pipeline_draws(pipeline, model, prompt=TEXTS, negative_prompt=[CaptionEncoder.negative] * len(TEXTS))
    got = draw(model, conditioning="text")
    assert all(near(ours, theirs) for ours, theirs in zip(got, expected, strict=True))
    assert got[0].std() > 10 and not near(*got)  # pictures, not one grey


@torch.no_grad()
def test_the_bridge_replaces_mt5_and_the_caption_goes_through_clip(model, pipeline, folder, monkeypatch):
    condition = []
    query = OmniBridge.query_condition
    monkeypatch.setattr(OmniBridge, "query_condition", lambda *given: condition.append(query(*given)) or condition[0])
    got = draw(model)
    pipeline.scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    negative = [CaptionEncoder.negative] * len(TEXTS)
    slots = [pipeline.encode_prompt(TEXTS, negative_prompt=negative, text_encoder_index=index) for index in (0, 1)]
    (clip, clip_negative, clip_mask, clip_negative_mask), (words, words_negative, mask, negative_mask) = slots

    def theirs(states: torch.Tensor) -> list[np.ndarray]:
        return pipeline_draws(
            pipeline, model, prompt=None, prompt_embeds=clip, negative_prompt_embeds=clip_negative,
            prompt_attention_mask=clip_mask, negative_prompt_attention_mask=clip_negative_mask,
            prompt_embeds_2=states, negative_prompt_embeds_2=words_negative,
            prompt_attention_mask_2=mask, negative_prompt_attention_mask_2=negative_mask,
        )  # fmt: skip

    assert all(near(ours, other) for ours, other in zip(got, theirs(condition[0]), strict=True))
    assert not any(near(ours, other) for ours, other in zip(got, theirs(words), strict=True))


# --- seeds, batches, weights ----------------------------------------------------------------------


def test_a_seed_determines_the_picture_in_any_batch(model: OmniBridge):
    together = draw(model)
    torch.manual_seed(7)
    for text, seed, picture in zip(TEXTS, SEEDS, together, strict=True):
        (alone,) = draw(model, [text], [seed])
        assert alone.shape == (SIZE_PX, SIZE_PX, 3) and near(alone, picture)
        assert np.array_equal(draw(model, [text], [seed])[0], alone)
    assert not near(draw(model, TEXTS[:1], [SEEDS[0] + 1])[0], together[0])


@pytest.mark.parametrize(
    "name",
    [
        "aligner.block.1.layer.0.SelfAttention.o.weight",
        "decoder.transformer.blocks.1.ff.net.2.weight",
        "autoencoder.vae.decoder.conv_in.weight",
        "captions.encoder.encoder.layer.1.output.dense.weight",
        "text_encoder.encoder.block.1.layer.1.DenseReluDense.wo.weight",  # by the negative prompt
    ],
)
def test_every_part_reaches_the_picture(model: OmniBridge, name: str):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.get_parameter(name).mul_(-3)
    assert not np.array_equal(draw(twin)[0], draw(model)[0])


def test_half_precision_draws_nearly_the_same(bridge: OmniBridge, model: OmniBridge, folder: Path):
    half = copy.deepcopy(bridge)
    attach_decoder(half, folder)
    assert (
        half.decoder.transformer.dtype == torch.float16 and next(half.autoencoder.parameters()).dtype == torch.float32
    )
    for first, second in zip(draw(half), draw(model), strict=True):
        difference = np.abs(first.astype(int) - second.astype(int))
        assert difference.max() > 0 and difference.mean() < 3  # eleven bits over a few layers and three steps


@torch.no_grad()
def test_the_autoencoder_encodes_means_and_decodes_them(model: OmniBridge, folder: Path):
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    pictures = torch.rand(2, 3, SIZE_PX, SIZE_PX, generator=torch_rng(0, "pictures")) * 2 - 1
    means = vae.encode(pictures).latent_dist.mean
    assert torch.allclose(model.autoencoder.encode(pictures), means * 0.13, atol=1e-6)
    assert torch.allclose(model.autoencoder.decode(means * 0.13), vae.decode(means).sample, atol=1e-4)
    assert (model.autoencoder.patch_px, model.autoencoder.channels) == (8, 4)


# --- editing --------------------------------------------------------------------------------------


def test_edits_both_ways(model: OmniBridge):
    wide = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    masked = model.edit(wide, "make it red", 3, steps=STEPS)
    assert masked.picture.shape == wide.shape and not masked.mask.all()
    assert np.array_equal(masked.picture[~masked.mask], wide[~masked.mask])
    redrawn = model.edit(wide, "make it red", 3, steps=STEPS, method="reference")
    assert redrawn.picture.shape == wide.shape and redrawn.mask.all() and redrawn.before == ""


# --- loading and saving ---------------------------------------------------------------------------


def test_a_saved_model_loads_its_decoder_from_the_decoders_folder(model: OmniBridge, folder: Path, tmp_path: Path):
    save_model(model, tmp_path)
    loaded = latentbridge.load(tmp_path, decoder=folder)
    assert draw(loaded)[0].shape == (SIZE_PX, SIZE_PX, 3)
    with pytest.raises(UserError, match="no decoder"):
        draw(latentbridge.load(tmp_path))


def test_incompatible_models_are_refused(small_model: OmniBridge, small_config: ModelConfig, folder: Path):
    with pytest.raises(UserError, match="a decoder already"):
        attach_decoder(small_model, folder)
    with pytest.raises(UserError, match="no bridge"):
        attach_decoder(new_model(dataclasses.replace(small_config, parts=("backbone",)), 0), folder)
    with pytest.raises(UserError, match=r"expects a condition of \[256, 32\], but the bridge outputs \[32, 32\]"):
        attach_decoder(new_model(dataclasses.replace(small_config, parts=("backbone", "bridge")), 0), folder)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("transformer", "missing"),
        ("transformer", "another shape"),
        ("transformer", "cut short"),
        ("vae", "unexpected"),
        ("vae", "pickled"),
        ("text_encoder_2", "missing"),
        ("text_encoder_2", "another shape"),
        ("text_encoder_2", "pickled"),
        ("text_encoder", "unexpected"),
        ("text_encoder", "cut short"),
    ],
)
def test_damaged_weights_are_refused(bridge: OmniBridge, copied: Path, part: str, damage: str):
    (path,) = (copied / part).glob("*.safetensors")
    weights = load_file(path)
    name = sorted(weights)[3]
    if damage == "missing":
        del weights[name]
    elif damage == "unexpected":
        name = "another.weight"
        weights[name] = torch.zeros(2)
    elif damage == "another shape":
        weights[name] = torch.zeros(3, 5)
    save_file(weights, path, metadata={"format": "pt"})
    expected = rf"1 tensors are missing, unexpected or of another shape \(first: {name}\)"
    if damage == "pickled":
        torch.save(weights, path.with_suffix(".bin"))
        path.unlink()
        expected = "no .safetensors files"
    elif damage == "cut short":
        path.write_bytes(path.read_bytes()[:-50])
        expected = "Cannot read"
    with pytest.raises(UserError, match=expected):
        attach_decoder(copy.deepcopy(bridge), copied)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("transformer/config.json", {"use_style_cond_and_image_meta_size": True}, "before version 1.2"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "does not add noise"),
        ("scheduler/scheduler_config.json", {"_class_name": "Pipeline"}, "names no scheduler"),
        ("scheduler/scheduler_config.json", None, "diffusers' layout"),
        ("tokenizer/tokenizer.json", None, "no vocabulary"),
        ("tokenizer_2/tokenizer.json", None, "no vocabulary"),
    ],
)
def test_incompatible_parts_are_refused(bridge: OmniBridge, copied: Path, file: str, change: dict | None, message: str):
    path = copied / file
    if change is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        attach_decoder(copy.deepcopy(bridge), copied)


def test_an_unreadable_vocabulary_names_the_missing_package(bridge: OmniBridge, copied: Path):
    (copied / "tokenizer_2" / "tokenizer.json").unlink()
    (copied / "tokenizer_2" / "spiece.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match="sentencepiece"):
        attach_decoder(copy.deepcopy(bridge), copied)
