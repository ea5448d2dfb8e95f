"""What a request needs at each precision and offload: device and host memory at peak, and time.

Weights are counted by the functions that quantise and offload them. Activations and the KV cache are those of the verb's own
code, run over sizes alone (`trace.py`); `benchmarks/plan.py` compares them with measurements. Time is a bound: what computes
and what moves bytes are counted by stretches, of which each takes as long as the slower of the two, or as starting its operations
one by one; offloaded weights cross the link to the host besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from latentbridge.errors import UserError
from latentbridge.models.memory.known import RELEASES, outlined
from latentbridge.models.memory.profile import Profile, Stretch, profile
from latentbridge.models.memory.requests import Request, checked_options
from latentbridge.models.memory.weights import PRECISIONS, BlockId, WeightBytes, set_precision, weigh
from latentbridge.models.offload import Offload
from latentbridge.models.unified import UnifiedModel

GIB = 2**30
RESERVED = 1.0 * GIB
"""Of a GPU's memory, for its context, the libraries' workspaces and what its allocator cannot use."""
_PROCESS = 1.0 * GIB
"""Host memory of Python and the libraries."""
_OFFLOADS: tuple[Offload | None, ...] = (None, "parts", "layers")
_PREFERRED = (
    ("bfloat16", None), ("bfloat16", "parts"), ("int8", None), ("nf4", None), ("int8", "parts"), ("nf4", "parts"),
    ("bfloat16", "layers"), ("int8", "layers"), ("nf4", "layers"),
)  # fmt: skip
"""What is recommended if it fits: exact before rounded, and layers that wait on the host last, since they are slow."""
_FEW_STEPS = (4, 6)


@dataclass(frozen=True)
class Rates:
    """What a GPU sustains."""

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
    modes, download = list[Mode](), 0.0
    for name in PRECISIONS:
        model = outlined(source)
        found = measure(model, name, request, rates)
        modes += found
        if name == "bfloat16" and source.lower() in RELEASES:
            download = sum(found[0].weights.values())
    return Plan(source, request, tuple(modes), download)


def measure(model: UnifiedModel, precision: str, request: Request, rates: Rates = Rates()) -> list[Mode]:
    """Return the modes of one precision; the outline takes its data types."""
    set_precision(model, PRECISIONS[precision])
    weights, variants = weigh(model), list(_variants(model, request))
    speed = replace(rates, tflops=rates.tflops / (2 if precision == "float32" else 1))
    modes = []
    for offload in _OFFLOADS:
        seconds = sum(factor * _seconds(each, weights, offload, speed) for factor, each in variants)
        modes.append(_mode(precision, offload, variants[0][1], weights, seconds))
    return modes


def _mode(precision: str, offload: Offload | None, found: Profile, weights: WeightBytes, seconds: float) -> Mode:
    """Return a mode at its peak."""

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
        seconds,
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
            brought = totals.get(stretch.part, 0.0) if offload and stretch.part != part else 0.0
        total += brought / (rates.link_gb * 1e9)
        part = stretch.part
    return total


def _variants(model: UnifiedModel, request: Request) -> Iterator[tuple[float, Profile]]:
    """Yield profiles with few steps, and factors by which their times add up to that of all steps.

    Each step takes as long as any other, and each denoising step in it (Harmon's head). The first has the peak.
    """
    options = checked_options(model, request)
    counts: dict[str, int] = {}
    if request.verb in ("generate", "edit") and model.kind != "janus":  # whose steps are the codes of a fixed grid
        found = {"steps": getattr(options, "steps", 0), "denoising_steps": getattr(options, "num_denoising_steps", 0)}
        counts = {name: count for name, count in found.items() if count > _FEW_STEPS[1] + 2}
    low, high = _FEW_STEPS
    base = dict.fromkeys(counts, high)
    factors: dict[str, float] = {}
    scale = counts.get("steps", high) / high
    for name, count in counts.items():
        factors[name] = (count - high) / (high - low) * (scale if name == "denoising_steps" else 1.0)
    yield 1.0 + sum(factors.values()), profile(model, _with(request, base))
    for name, factor in factors.items():
        yield -factor, profile(model, _with(request, {**base, name: low}))


def _with(request: Request, options: dict[str, Any]) -> Request:
    return replace(request, options=(*request.options, *options.items()))


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
