"""Forward passes of a training step: network parts, tokens and gradients, from which costs are estimated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from latentbridge.config import AlignConfig, LatentUMMConfig, RunConfig
from latentbridge.errors import UserError
from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
from latentbridge.models.backbones.janus.modeling_janus import JanusPro
from latentbridge.models.checkpoint import Network
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.training.stages.finetune import CONVERSATIONS_PER_PAIR


class Pass(NamedTuple):
    """A forward pass of one sample through a part of the network."""

    part: str
    """Prefix of its modules' names."""
    tokens: int
    times: float = 1.0
    with_gradient: bool = True
    from_data: bool = False
    """Its input is data, so it has a gradient only if its own weights are trained."""


Passes = tuple[Pass, ...]


@dataclass(frozen=True)
class ModelPasses:
    """The passes of one sample in each method of `TrainableModel` that training calls."""

    understand: Passes
    """`understanding_loss`."""
    generate: Passes
    """`generation_loss`."""
    encode_text: Passes
    encode_image: Passes
    gen_latent: Passes
    sampling: Passes
    """The part of `gen_latent` without gradient."""
    draw: Passes
    encode_drawn: Passes
    """Encoding of the drawn image in `roundtrip`."""


def passes(config: RunConfig, network: Network, text_tokens: int, picture_px: int) -> Passes:
    """Return the passes of one sample in a step, with texts of `text_tokens` and images of `picture_px` squared.

    Images have the model's own size if that is fixed. Half of a text is the reply, for which tokens are predicted. Not
    included: frozen features of alignment, a teacher's embeddings, held-out metrics. Raises UserError for a stage without
    an estimate.
    """
    stage = config.stage
    if isinstance(stage, AlignConfig):
        return _alignment(stage, network)
    model = _model_passes(network, text_tokens, picture_px, getattr(stage, "roundtrip_steps", 4))
    if stage.kind == "sft":
        return model.understand
    native = model.understand + model.generate
    if stage.kind in ("posttrain_sft", "unicot", "pretrain_unified"):
        return native
    if isinstance(stage, LatentUMMConfig):
        return native + _latentumm(stage, model)
    if stage.kind == "finetune":
        encoded = model.gen_latent + model.encode_text + model.encode_image
        rehearsed = tuple(item._replace(times=item.times / CONVERSATIONS_PER_PAIR) for item in encoded)
        return model.understand + rehearsed + _no_grad(rehearsed)
    supported = ("sft", "finetune", "adaption", "align", "posttrain_sft", "unicot", "pretrain_unified", "latentumm")
    raise UserError(f"No estimate is made for the stage {stage.kind}; choose a recipe of {', '.join(supported)}.")


def _latentumm(stage: LatentUMMConfig, model: ModelPasses) -> Passes:
    """Return the passes of `training/objectives/latentumm.py`: all rollouts without gradient, z and the best with it."""
    weights, roundtrip = stage.weights, model.draw + model.encode_drawn
    result = model.encode_text + model.encode_image + model.gen_latent + _no_grad(model.sampling)
    if weights.cycle:
        result += model.draw + model.understand
    if weights.preference:
        result += _no_grad(roundtrip, stage.rollouts) + roundtrip
    if weights.task or weights.preference:
        result += roundtrip
    return result


def _no_grad(items: Passes, times: int = 1) -> Passes:
    return tuple(item._replace(times=item.times * times, with_gradient=False) for item in items)


def _from_drawing(items: Passes) -> Passes:
    """Return the passes for a drawn image, through which gradients flow, in place of a data image."""
    return tuple(item._replace(from_data=False) for item in items)


def _alignment(stage: AlignConfig, network: Network) -> Passes:
    sizes: Any = network.config
    result = (Pass("projector.", sizes.aligner.num_queries), Pass("aligner.", sizes.aligner.num_queries))
    if stage.diffusion_weight:
        result += (Pass("decoder.", _decoder_tokens(network)),)
    if stage.retrieval_weight:
        for queries in (sizes.retrieval.num_image_queries, sizes.retrieval.num_text_queries):
            result += (Pass("projector.", queries), Pass("aligner.", queries), Pass("retrieval.", queries, 0.5))
    return result


def _model_passes(network: Network, text: int, picture_px: int, steps: int) -> ModelPasses:
    for kind, make in _MODELS.items():
        if isinstance(network, kind):
            return make(network, text, picture_px, steps)
    raise UserError(
        "No estimate is made for this kind of network; choose a recipe of a model that understands and draws."
    )


def _omnibridge(network: Any, text: int, picture_px: int, steps: int) -> ModelPasses:
    sizes = network.config.backbone
    side = (sizes.image_size_px or picture_px) // (sizes.patch_size_px * sizes.merge_size)
    image = side**2
    visual, patches = "backbone.model.model.visual.", image * sizes.merge_size**2
    vision = (
        Pass(f"{visual}patch_embed.", patches, from_data=True),
        Pass(f"{visual}blocks.", patches, from_data=True),
        Pass(f"{visual}merger.", image, from_data=True),
    )
    language, head = "backbone.model.model.language_model.", "backbone.model.lm_head"
    bridge = (Pass("projector.", text), Pass("aligner.", network.config.aligner.num_queries))
    draw = (Pass("decoder.", _decoder_tokens(network), steps),) if hasattr(network, "decoder") else ()
    return ModelPasses(
        understand=(*vision, Pass(language, text + image), Pass(head, text // 2)),
        generate=(Pass(language, text), *bridge, *(item._replace(times=1.0) for item in draw)),
        encode_text=(Pass(language, text),),
        encode_image=(*vision, Pass(language, image)),
        gen_latent=(Pass(language, text), *bridge),
        sampling=(),
        draw=draw,
        encode_drawn=(*_from_drawing(vision), Pass(language, image), *bridge),
    )


def _decoder_tokens(network: Any) -> int:
    """Return the number of tokens of a HunyuanDiT."""
    return (network.decoder.grid // network.decoder.transformer.config.patch_size) ** 2


def _janus(network: Any, text: int, picture_px: int, steps: int) -> ModelPasses:
    language, codes = "model.model.language_model.", network.num_codes
    vision = tuple(Pass(f"model.model.{part}.", codes, from_data=True) for part in ("vision_model", "aligner"))
    embed, head = Pass("model.model.generation_aligner.", codes), Pass("model.model.generation_head.", codes)
    drawing = (embed, Pass(language, text + codes))
    return ModelPasses(
        understand=(*vision, Pass(language, text + codes), Pass("model.lm_head", text // 2)),
        generate=(*drawing, head),
        encode_text=(Pass(language, text),),
        encode_image=(*vision, Pass(language, codes)),
        gen_latent=drawing,
        sampling=tuple(item._replace(times=2.0) for item in (*drawing, head)),  # classifier-free guidance
        draw=(head,),
        encode_drawn=(*_from_drawing(vision), Pass(language, codes)),
    )


def _bagel(network: Any, text: int, picture_px: int, steps: int) -> ModelPasses:
    und, gen, drawn = "language_model.und.", "language_model.gen.", network.latents.grid**2
    image = (min(picture_px, network.eye.most_px) // network.eye.patch_px) ** 2
    vision = (Pass("eye.", image, from_data=True),)
    return ModelPasses(
        understand=(*vision, Pass(und, text + image), Pass("language_model.lm_head", text // 2)),
        generate=(Pass(und, text), Pass(gen, drawn)),
        encode_text=(Pass(und, text),),
        encode_image=(*vision, Pass(und, image)),
        gen_latent=(Pass(und, text), Pass(gen, drawn, steps)),
        sampling=(),
        draw=(),
        encode_drawn=(Pass("eye.", drawn), Pass(und, drawn)),
    )


def _harmon(network: Any, text: int, picture_px: int, steps: int) -> ModelPasses:
    image = network.num_tokens + network.num_buffers
    language = "language_model.model."
    vision = (Pass("encoder.", image, from_data=True), Pass("proj_in.", image, from_data=True))
    drawing = (*vision, Pass(language, text + image), Pass("proj_out.", image), Pass("decoder.", image))
    step = tuple(item._replace(times=float(network.drawing_options.steps)) for item in drawing)
    sampled, denoised = (
        (Pass("head.", network.num_tokens, options.num_denoising_steps),)
        for options in (network.drawing_options, network.roundtrip_options)
    )
    return ModelPasses(
        understand=(*vision, Pass(language, text + image), Pass("language_model.lm_head", text // 2)),
        generate=(*drawing, Pass("head.", 4 * network.num_tokens)),  # four noise levels per token (MAR)
        encode_text=(Pass(language, text),),
        encode_image=(*vision, Pass(language, image)),
        gen_latent=step,
        sampling=(*step, *sampled, *sampled),  # unconditional passes of guidance, and the tokens
        draw=denoised,
        encode_drawn=(*_from_drawing((*vision, *drawing)), Pass(language, image)),
    )


_MODELS: dict[type, Callable[[Any, int, int, int], ModelPasses]] = {
    OmniBridge: _omnibridge,
    JanusPro: _janus,
    Bagel: _bagel,
    Harmon: _harmon,
}
