"""Which parts of a network a training step passes, with how many tokens, and where gradients come back: what estimates count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from latentbridge.config import RunConfig
from latentbridge.errors import UserError
from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
from latentbridge.models.backbones.janus.modeling_janus import JanusPro
from latentbridge.models.checkpoint import Network
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.training.stages.finetune import TALKS_PER_PAIR


class Pass(NamedTuple):
    """A part of the network and what goes through it for one sample."""

    part: str
    """What the names of its modules start with."""
    tokens: int
    times: float = 1.0
    learns: bool = True
    """Whether gradients come back through it."""
    of_data: bool = False
    """Whether nothing before it learns, so that gradients come only where it does itself."""


Passes = tuple[Pass, ...]


@dataclass(frozen=True)
class Verbs:
    """What a unified backbone does, in passes of one sample; the names are those of `TrainableModel` where it has one."""

    understand: Passes
    generate: Passes
    """`generation_loss`."""
    read_words: Passes
    read_picture: Passes
    gen_latent: Passes
    sampling: Passes
    """What `gen_latent` does without gradient."""
    draw: Passes
    read_drawn: Passes
    """What a round trip does with the drawing."""


def passes(config: RunConfig, network: Network, text_tokens: int, picture_px: int) -> Passes:
    """The passes of one sample in a step. Texts have `text_tokens`; pictures are `picture_px` squared where any size is read.

    Half of a text is a reply, for which alone words are predicted. Raises UserError for a stage that estimates do not know. What no step computes is left out: frozen features of
    alignment, a teacher's embeddings, held-out checks.
    """
    stage = config.stage
    if stage.kind in ("adaption", "align"):
        return _alignment(config, network)
    verbs = _verbs(network, text_tokens, picture_px, stage.posttrain.roundtrip_steps)
    if stage.kind == "sft":
        return verbs.understand
    native = verbs.understand + verbs.generate
    if stage.kind in ("posttrain_sft", "unicot", "pretrain_unified"):
        return native
    if stage.kind == "latentumm":
        return native + _latentumm(config, verbs)
    if stage.kind == "finetune":
        read = verbs.gen_latent + verbs.read_words + verbs.read_picture
        rehearsed = tuple(each._replace(times=each.times / TALKS_PER_PAIR) for each in read)
        return verbs.understand + rehearsed + _frozen(rehearsed)
    known = ("sft", "finetune", "adaption", "align", "posttrain_sft", "unicot", "pretrain_unified", "latentumm")
    raise UserError(f"No estimate is made for the stage {stage.kind}; choose a recipe of {', '.join(known)}.")


def _latentumm(config: RunConfig, verbs: Verbs) -> Passes:
    """Beside the native losses (`training/objectives/latentumm.py`): all rollouts without gradient, then z and the best with it."""
    weights, trip = config.stage.posttrain.weights, verbs.draw + verbs.read_drawn
    found = verbs.read_words + verbs.read_picture + verbs.gen_latent + _frozen(verbs.sampling)
    if weights.telling:
        found += verbs.draw + verbs.understand
    if weights.preference:
        found += _frozen(trip, config.stage.posttrain.rollouts) + trip
    if weights.task or weights.preference:
        found += trip
    return found


def _frozen(found: Passes, times: int = 1) -> Passes:
    return tuple(each._replace(times=each.times * times, learns=False) for each in found)


def _drawn(found: Passes) -> Passes:
    """The passes of a drawing in the place of a picture: gradients go on to what drew it."""
    return tuple(each._replace(of_data=False) for each in found)


def _alignment(config: RunConfig, network: Network) -> Passes:
    sizes: Any = network.config
    found = (Pass("projector.", sizes.aligner.num_queries), Pass("aligner.", sizes.aligner.num_queries))
    if config.stage.diffusion_weight:
        found += (Pass("decoder.", _squares(network)),)
    if config.stage.retrieval_weight:
        for queries in (sizes.retrieval.num_image_queries, sizes.retrieval.num_text_queries):
            found += (Pass("projector.", queries), Pass("aligner.", queries), Pass("retrieval.", queries, 0.5))
    return found


def _verbs(network: Network, text: int, picture_px: int, steps: int) -> Verbs:
    for kind, of in _VERBS.items():
        if isinstance(network, kind):
            return of(network, text, picture_px, steps)
    raise UserError(
        "No estimate is made for this kind of network; choose a recipe of a model that understands and draws."
    )


def _omnibridge(network: Any, text: int, picture_px: int, steps: int) -> Verbs:
    sizes = network.config.backbone
    side = (sizes.image_size_px or picture_px) // (sizes.patch_size_px * sizes.merge_size)
    picture = side**2
    visual, patches = "backbone.model.model.visual.", picture * sizes.merge_size**2
    eye = (
        Pass(f"{visual}patch_embed.", patches, of_data=True),
        Pass(f"{visual}blocks.", patches, of_data=True),
        Pass(f"{visual}merger.", picture, of_data=True),
    )
    language, head = "backbone.model.model.language_model.", "backbone.model.lm_head"
    bridge = (Pass("projector.", text), Pass("aligner.", network.config.aligner.num_queries))
    draw = (Pass("decoder.", _squares(network), steps),) if hasattr(network, "decoder") else ()
    return Verbs(
        understand=(*eye, Pass(language, text + picture), Pass(head, text // 2)),
        generate=(Pass(language, text), *bridge, *(each._replace(times=1.0) for each in draw)),
        read_words=(Pass(language, text),),
        read_picture=(*eye, Pass(language, picture)),
        gen_latent=(Pass(language, text), *bridge),
        sampling=(),
        draw=draw,
        read_drawn=(*_drawn(eye), Pass(language, picture), *bridge),
    )


def _squares(network: Any) -> int:
    """Tokens of a HunyuanDiT."""
    return (network.decoder.grid // network.decoder.transformer.config.patch_size) ** 2


def _janus(network: Any, text: int, picture_px: int, steps: int) -> Verbs:
    language, codes = "model.model.language_model.", network.num_codes
    see = tuple(Pass(f"model.model.{part}.", codes, of_data=True) for part in ("vision_model", "aligner"))
    embed, choose = Pass("model.model.generation_aligner.", codes), Pass("model.model.generation_head.", codes)
    drawing = (embed, Pass(language, text + codes))
    return Verbs(
        understand=(*see, Pass(language, text + codes), Pass("model.lm_head", text // 2)),
        generate=(*drawing, choose),
        read_words=(Pass(language, text),),
        read_picture=(*see, Pass(language, codes)),
        gen_latent=drawing,
        sampling=tuple(each._replace(times=2.0) for each in (*drawing, choose)),  # with and without the words
        draw=(choose,),
        read_drawn=(*_drawn(see), Pass(language, codes)),
    )


def _bagel(network: Any, text: int, picture_px: int, steps: int) -> Verbs:
    und, gen, drawn = "language_model.und.", "language_model.gen.", network.latents.grid**2
    picture = (min(picture_px, network.eye.most_px) // network.eye.patch_px) ** 2
    see = (Pass("eye.", picture, of_data=True),)
    return Verbs(
        understand=(*see, Pass(und, text + picture), Pass("language_model.lm_head", text // 2)),
        generate=(Pass(und, text), Pass(gen, drawn)),
        read_words=(Pass(und, text),),
        read_picture=(*see, Pass(und, picture)),
        gen_latent=(Pass(und, text), Pass(gen, drawn, steps)),
        sampling=(),
        draw=(),
        read_drawn=(Pass("eye.", drawn), Pass(und, drawn)),
    )


def _harmon(network: Any, text: int, picture_px: int, steps: int) -> Verbs:
    places = network.num_tokens + network.num_buffers
    language = "language_model.model."
    see = (Pass("encoder.", places, of_data=True), Pass("proj_in.", places, of_data=True))
    drawing = (*see, Pass(language, text + places), Pass("proj_out.", places), Pass("decoder.", places))
    step = tuple(each._replace(times=float(network.drawing_steps)) for each in drawing)
    denoise = (Pass("head.", network.num_tokens, network.denoising_steps),)
    return Verbs(
        understand=(*see, Pass(language, text + places), Pass("language_model.lm_head", text // 2)),
        generate=(*drawing, Pass("head.", 4 * network.num_tokens)),  # four noise levels a token (MAR)
        read_words=(Pass(language, text),),
        read_picture=(*see, Pass(language, places)),
        gen_latent=step,
        sampling=(*step, *denoise, *denoise),  # the half of guidance without words, and the tokens
        draw=denoise,
        read_drawn=(*_drawn((*see, *drawing)), Pass(language, places)),
    )


_VERBS: dict[type, Callable[[Any, int, int, int], Verbs]] = {
    OmniBridge: _omnibridge,
    JanusPro: _janus,
    Bagel: _bagel,
    Harmon: _harmon,
}
