"""The needs of a request at each precision and offload: device and host memory at peak, and time.

Weights are counted by the functions that quantise and offload them. Activations and the KV cache are those of the verb's own
code, run over sizes alone (`trace.py`); `benchmarks/plan.py` compares them with measurements. Time is a bound: what computes
and what moves bytes are counted by stretches, of which each takes as long as the slower of the two, or as starting its operations
one by one; offloaded weights cross the link to the host besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from latentbridge.errors import UserError
from latentbridge.models.memory.known import RELEASES, known_name, outlined
from latentbridge.models.memory.profile import Profile, Stretch, profile
from latentbridge.models.memory.requests import Request, checked_options
from latentbridge.models.memory.weights import PRECISIONS, BlockId, WeightBytes, set_precision, weigh
from latentbridge.models.offload import Offload
from latentbridge.models.unified import UnifiedModel

GIB = 2**30
RESERVED = 1.0 * GIB
"""Bytes of a GPU's memory for its context, the libraries' workspaces and what its allocator cannot use."""
_PROCESS = 1.0 * GIB
"""Host memory of Python and the libraries."""
OFFLOADS: tuple[Offload | None, ...] = (None, "parts", "layers")
_PREFERRED = (
    ("bfloat16", None), ("bfloat16", "parts"), ("int8", None), ("nf4", None), ("int8", "parts"), ("nf4", "parts"),
    ("bfloat16", "layers"), ("int8", "layers"), ("nf4", "layers"),
)  # fmt: skip
"""Modes in the order of recommendation: exact before rounded, and offloaded layers last, since they are slow."""
_FEW_STEPS = (4, 6)


@dataclass(frozen=True)
class Rates:
    """Sustained rates of a GPU."""

    tflops: float = 100.0
    """10^12 FLOPs per second in bfloat16; float32 takes twice as long."""
    memory_gb: float = 800.0
    """GB per second between its memory and its cores."""
    link_gb: float = 20.0
    """GB per second between host and GPU."""
    launch_us: float = 8.0
    """Microseconds to start an operation."""


@dataclass(frozen=True)
class Mode:
    """A precision and an offload, and what a request needs with them; memory in bytes."""

    precision: str
    offload: Offload | None
    weights: dict[str, float]
    """On the device at the peak, by what they belong to."""
    cache: float
    """Keys and values of the language model at the peak."""
    activations: float
    host: float
    seconds: float

    @property
    def device(self) -> float:
        return sum(self.weights.values()) + self.cache + self.activations

    @property
    def flags(self) -> str:
        """The command line's flags."""
        return PRECISIONS[self.precision].flags + (f" --offload {self.offload}" if self.offload else "")

    def fits(self, gpu: float) -> bool:
        """Return whether a GPU with so many bytes suffices."""
        return self.device + RESERVED <= gpu


@dataclass(frozen=True)
class Plan:
    """All modes of a request."""

    source: str
    request: Request
    modes: tuple[Mode, ...]
    download: float
    """Bytes; 0 for a model that is here."""

    def recommended(self, gpu: float) -> Mode | None:
        """Return the mode to use on a GPU with so many bytes, if any fits."""
        modes = {(mode.precision, mode.offload): mode for mode in self.modes if mode.fits(gpu)}
        return next((modes[name] for name in _PREFERRED if name in modes), None)


def plan(source: str, request: Request, rates: Rates = Rates()) -> Plan:
    """Return what a request to a model needs; raise UserError for an unknown model, or a request that it does not take."""
    model = outlined(source)
    set_precision(model, PRECISIONS["bfloat16"])
    weights, variants = weigh(model), list(_variants(model, request))
    found = {"bfloat16": (weights, variants[0].profile)}
    for name in PRECISIONS.keys() - found.keys():
        model = outlined(source)
        set_precision(model, PRECISIONS[name])
        found[name] = weigh(model), profile(model, variants[0].request)
    modes = []
    for offload in OFFLOADS:
        few_steps, *others = [_seconds(each.profile, weights, offload, rates) for each in variants]
        scale = (
            sum(each.factor * seconds for each, seconds in zip(variants, (few_steps, *others), strict=True)) / few_steps
        )
        modes += [_mode(name, offload, *found[name], scale, rates) for name in PRECISIONS]
    modes.sort(key=lambda mode: list(PRECISIONS).index(mode.precision))
    return Plan(source, request, tuple(modes), weights.total if known_name(source) in RELEASES else 0.0)


def _mode(
    precision: str, offload: Offload | None, weights: WeightBytes, found: Profile, scale: float, rates: Rates
) -> Mode:
    """Return a mode at its peak; it takes `scale` times as long as its profile."""
    if precision == "float32":
        rates = replace(rates, tflops=rates.tflops / 2)

    def device(stretch: Stretch, block: BlockId | None) -> float:
        return stretch.peaks[block] + brought[block]

    blocks = {block for stretch in found for block in stretch.peaks}
    brought = {block: sum(weights.on_device(offload, block).values()) for block in blocks}
    stretch, block = max(((s, block) for s in found for block in s.peaks), key=lambda pair: device(*pair))
    cache = stretch.cache.get(block, 0.0)
    return Mode(
        precision,
        offload,
        weights.on_device(offload, block),
        cache,
        stretch.peaks[block] - cache,
        _PROCESS + weights.waiting(offload),
        scale * _seconds(found, weights, offload, rates),
    )


def _seconds(found: Profile, weights: WeightBytes, offload: Offload | None, rates: Rates) -> float:
    """Return how long a profile takes."""
    total, part = 0.0, None
    totals: dict[int | None, float] = {}
    for block, size in weights.blocks.items():
        totals[block.part] = totals.get(block.part, 0.0) + size
    for stretch in found:
        work = stretch.work
        total += max(
            work.flops / (rates.tflops * 1e12),
            work.moved / (rates.memory_gb * 1e9),
            work.operations * rates.launch_us / 1e6,
        )
        if offload == "layers":
            brought = sum(weights.blocks[block] * times for block, times in stretch.brought.items())
        else:
            brought = stretch.times * totals.get(stretch.part, 0.0) if offload and stretch.part != part else 0.0
        total += brought / (rates.link_gb * 1e9)
        part = stretch.part
    return total


class _Variant(NamedTuple):
    """A request with few steps; times of all variants by their factors add up to the time of all steps."""

    factor: float
    request: Request
    profile: Profile


def _variants(model: UnifiedModel, request: Request) -> Iterator[_Variant]:
    """Yield a request with few steps, which has the peak, and with fewer: each step takes as long as any other.

    So does each denoising step in it (Harmon's head).
    """
    options = checked_options(model, request)
    counts: dict[str, int] = {}
    if request.verb in ("generate", "edit") and model.kind != "janus":  # whose steps are the codes of a fixed grid
        found = {"steps": getattr(options, "steps", 0), "denoising_steps": getattr(options, "num_denoising_steps", 0)}
        counts = {name: count for name, count in found.items() if count > _FEW_STEPS[1] + 2}
    low, high = _FEW_STEPS
    base = dict.fromkeys(counts, high)
    scale = counts.get("steps", high) / high
    factors = {name: (count - high) / (high - low) for name, count in counts.items()}
    if "denoising_steps" in factors:
        factors["denoising_steps"] *= scale
    requests = [(1.0 + sum(factors.values()), base)]
    requests += [(-factor, {**base, name: low}) for name, factor in factors.items()]
    for factor, changes in requests:
        each = replace(request, options=(*request.options, *changes.items()))
        yield _Variant(factor, each, profile(model, each))


def parse_memory(text: str) -> float:
    """Return the bytes of a GPU's memory: "24GB", "24 GiB", "24" or "24576MB", with units of 1024 as makers count them."""
    number, unit = text.strip().lower(), "gb"
    for each, power in (("gib", 30), ("gb", 30), ("g", 30), ("mib", 20), ("mb", 20), ("m", 20), ("", 30)):
        if number.endswith(each):
            number, unit = number.removesuffix(each).strip(), power
            break
    try:
        value = float(number) * 2.0 ** int(unit)
    except ValueError:
        value = 0.0
    if not 0 < value < 2**50:
        raise UserError(f"{text!r} is no size of a GPU's memory; give e.g. 24GB.")
    return value
