"""Tables of tensor names in two layouts, the authors' and ours, that are read in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

from latentbridge.models.stored_tensor import StoredTensor

Rule = tuple[str, str]
"""The authors' pattern and ours: text, in which {...} is a regular expression that stands for the same text on both sides
and is escaped outside of it. Patterns match at the start of a name, and the rest is kept; one that ends in $ is a whole name."""
_GROUP = re.compile(r"\{(.+?)\}")


class NameTable:
    """Names of tensors in two layouts. The first rule that fits a name renames it; a name that none fits is kept."""

    def __init__(self, rules: Iterable[Rule]):
        rules = tuple(rules)
        self._to_ours = [(_expression(theirs), _replacement(ours)) for theirs, ours in rules]
        self._to_theirs = [(_expression(ours), _replacement(theirs)) for theirs, ours in rules]

    def to_ours(self, name: str) -> str:
        """Return our name of a tensor in the authors' checkpoint."""
        return _rename(name, self._to_ours)

    def to_theirs(self, name: str) -> str:
        """Return the authors' name of a tensor of ours."""
        return _rename(name, self._to_theirs)


def vae_rules(levels: int, theirs: str = "", ours: str = "") -> list[Rule]:
    """Return rules for an autoencoder in latent diffusion's layout, with the prefixes `theirs` and `ours`, and diffusers'.

    Diffusers counts the decoder's levels from the other end.
    """
    stems = [(f"encoder.down.{level}.", f"encoder.down_blocks.{level}.") for level in range(levels)]
    stems += [(f"decoder.up.{levels - 1 - level}.", f"decoder.up_blocks.{level}.") for level in range(levels)]
    tails = [
        (r"block.{\d+}.nin_shortcut.", r"resnets.{\d+}.conv_shortcut."),
        ("block.", "resnets."),
        *_attention(r"attn.{\d+}.", r"attentions.{\d+}."),
        ("downsample.", "downsamplers.0."),
        ("upsample.", "upsamplers.0."),
    ]
    side = "{encoder|decoder}."
    rules = [(stem + tail, our_stem + our_tail) for stem, our_stem in stems for tail, our_tail in tails]
    rules += [
        (f"{side}mid.block_1.", f"{side}mid_block.resnets.0."),
        (f"{side}mid.block_2.", f"{side}mid_block.resnets.1."),
        *_attention(f"{side}mid.attn_1.", f"{side}mid_block.attentions.0."),
        (f"{side}norm_out.", f"{side}conv_norm_out."),
        ("", ""),
    ]
    return [(theirs + pattern, ours + our_pattern) for pattern, our_pattern in rules]


def attention_to_linear(name: str, tensor: StoredTensor) -> StoredTensor:
    """Return a tensor of an autoencoder of ours; weights of attention are stored as convolutions of one pixel."""
    is_convolution = ".attentions." in name and len(tensor.shape) == 4
    return tensor.converted(lambda values: values[:, :, 0, 0]) if is_convolution else tensor


def attention_to_convolution(name: str, tensor: Tensor) -> Tensor:
    """Return the tensor of which `attention_to_linear` makes this one."""
    return tensor[:, :, None, None] if ".attentions." in name and tensor.ndim == 2 else tensor


def _attention(theirs: str, ours: str) -> list[Rule]:
    return [
        (f"{theirs}norm.", f"{ours}group_norm."),
        (f"{theirs}{{q|k|v}}.", f"{ours}to_{{q|k|v}}."),
        (f"{theirs}proj_out.", f"{ours}to_out.0."),
    ]


def _rename(name: str, rules: Iterable[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in rules:
        if found := pattern.match(name):
            return found.expand(replacement) + name[found.end() :]
    return name


def _expression(pattern: str) -> re.Pattern[str]:
    literal = pattern.removesuffix("$")
    parts = _GROUP.split(literal)
    text = "".join(f"({part})" if index % 2 else re.escape(part) for index, part in enumerate(parts))
    return re.compile(text + "$" * (pattern != literal))


def _replacement(pattern: str) -> str:
    """Return the template of `re.Match.expand` in which the i-th group of a pattern is the match's i-th."""
    count = 0

    def reference(_: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return rf"\g<{count}>"

    return _GROUP.sub(reference, pattern.removesuffix("$"))
