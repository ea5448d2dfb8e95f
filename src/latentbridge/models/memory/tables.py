"""A plan as text and as a JSON document."""

from __future__ import annotations

from typing import Any

from latentbridge.models.memory.plan import GIB, RESERVED, Plan, Rates
from latentbridge.models.memory.weights import PRECISIONS


def plan_lines(plan: Plan, gpu: float, rates: Rates) -> list[str]:
    """Return a plan as lines for the terminal; `gpu` is its memory in bytes."""
    request = plan.request
    asked = f"{plan.source}: {request.verb}, {request.batch} at once" + (
        f", {request.size[0]}x{request.size[1]}" if request.size else ""
    )
    unit, scale, digits = _unit(max(mode.device for mode in plan.modes))
    lines = [
        asked + (f"; a download of about {plan.download / 1e9:.1f} GB" if plan.download else ""),
        f"Peak memory in {unit}:",
        f"{'precision':<10}{'offload':<9}{'device':>8}{'weights':>9}{'cache':>7}{'other':>7}{'host':>7}{'fits':>6}{'time':>9}",
    ]
    for mode in plan.modes:
        sizes = (mode.device, sum(mode.weights.values()), mode.cache, mode.activations, mode.host)
        device, weights, cache, other, host = (f"{size / scale:.{digits}f}" for size in sizes)
        fits = "yes" if mode.fits(gpu) else "no"
        lines.append(
            f"{mode.precision:<10}{mode.offload or 'none':<9}{device:>8}{weights:>9}{cache:>7}{other:>7}{host:>7}"
            f"{fits:>6}{_duration(mode.seconds):>9}"
        )
    best = plan.recommended(gpu)
    if best is None:
        least = min(plan.modes, key=lambda mode: mode.device)
        lines.append(
            f"Nothing fits in {gpu / GIB:.0f} GiB; the least is {(least.device + RESERVED) / GIB:.1f} GiB with {least.flags}."
        )
    else:
        lines.append(f"Use {best.flags}. Of the device's memory then, in {unit}:")
        lines += [f"  {name:<22}{size / scale:8.{digits}f}" for name, size in best.weights.items()]
    lines.append(
        f"{RESERVED / GIB:.0f} GiB of the GPU is left to its context and libraries. Times are at {rates.tflops:g} TFLOPs in "
        f"bfloat16 and half in float32, {rates.memory_gb:g} GB/s of GPU memory, {rates.link_gb:g} GB/s to the host and "
        f"{rates.launch_us:g} us per operation."
    )
    return lines


def plan_document(plan: Plan, gpu: float) -> dict[str, Any]:
    """Return a plan as a JSON document; sizes are bytes."""
    best = plan.recommended(gpu)
    modes = [
        {
            "precision": mode.precision,
            "offload": mode.offload,
            "device_bytes": round(mode.device),
            "weights_bytes": {name: round(size) for name, size in mode.weights.items()},
            "cache_bytes": round(mode.cache),
            "activation_bytes": round(mode.activations),
            "host_bytes": round(mode.host),
            "seconds": round(mode.seconds, 3),
            "fits": mode.fits(gpu),
            "flags": mode.flags,
        }
        for mode in plan.modes
    ]
    return {
        "model": plan.source,
        "verb": plan.request.verb,
        "size": plan.request.size,
        "batch": plan.request.batch,
        "gpu_bytes": round(gpu),
        "reserved_bytes": round(RESERVED),
        "download_bytes": round(plan.download),
        "recommended": best.flags if best else None,
        "precisions": list(PRECISIONS),
        "modes": modes,
    }


def _unit(most: float) -> tuple[str, float, int]:
    """Return a unit for sizes up to `most` bytes, the bytes in it, and digits after the point."""
    return ("GiB", GIB, 2) if most > GIB else ("MiB", 2**20, 1)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
