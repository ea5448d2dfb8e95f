"""Planned memory against memory measured on the CPU, for every kind, verb, precision and offload."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from latentbridge.config import TinyBagelConfig, TinyHarmonConfig, TinyJanusConfig
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import TINY, new_model, outline
from latentbridge.models.memory import profile as profiling
from latentbridge.models.memory.known import RELEASES, UNTRAINED, outlined
from latentbridge.models.memory.plan import GIB, OFFLOADS, Plan, Rates, parse_memory, plan
from latentbridge.models.memory.profile import profile
from latentbridge.models.memory.requests import Request
from latentbridge.models.memory.weights import PRECISIONS, set_precision, weigh

pytestmark = pytest.mark.slow  # minutes beside other jobs

FOLDER = Path(__file__).parents[3] / "benchmarks"
SHORT: dict[str, Any] = {"generate": {"steps": 3}, "edit": {"steps": 3}, "understand": {"max_tokens": 20}, "embed": {}}
"""20 tokens are more than are traced."""
PAIRS = [(kind, verb) for kind in UNTRAINED for verb in SHORT if verb != "edit" or kind in ("omnibridge", "bagel")]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that measures."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", ["benchmark"])
    spec = importlib.util.spec_from_file_location("plan_benchmark", FOLDER / "plan.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def request_for(verb: Any, batch: int = 2) -> Request:
    return Request(verb, batch=batch, options=tuple(SHORT[verb].items()))


@cache
def planned(kind: str, verb: str) -> Plan:
    return plan(kind, request_for(verb))


def bfloat16_bytes(name: str, request: Request) -> float:
    return next(mode.device for mode in plan(name, request).modes if mode.precision == "bfloat16")


def check(benchmark: ModuleType, kind: str, verb: str, precision: str) -> None:
    if PRECISIONS[precision].scheme:
        pytest.importorskip("bitsandbytes")
    config, request = UNTRAINED[kind], request_for(verb)
    modes = [mode for mode in planned(kind, verb).modes if mode.precision == precision]
    assert [mode.offload for mode in modes] == list(OFFLOADS)
    for mode in modes:
        measured = benchmark.measured(new_model(config, 0), request, precision, mode.offload)
        assert mode.device == pytest.approx(measured, rel=0.1), mode.flags


@pytest.mark.parametrize(("kind", "verb"), PAIRS)
def test_planned_memory_is_what_is_measured(benchmark: ModuleType, kind: str, verb: str):
    check(benchmark, kind, verb, "float32")


@pytest.mark.parametrize(("kind", "precision"), product(UNTRAINED, ["bfloat16", "int8", "nf4"]))
def test_planned_memory_is_what_is_measured_in_fewer_bits(benchmark: ModuleType, kind: str, precision: str):
    check(benchmark, kind, "embed", precision)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pair", "precision"), product([pair for pair in PAIRS if pair[1] != "embed"], ["bfloat16", "int8", "nf4"])
)
def test_planned_memory_is_what_is_measured_in_every_mode(benchmark: ModuleType, pair: tuple[str, str], precision: str):
    check(benchmark, *pair, precision)


DEEP = {
    "janus": TinyJanusConfig(width=64, num_layers=7, num_heads=2, codebook_size=61),
    "bagel": TinyBagelConfig(width=64, num_layers=7, num_heads=2, num_kv_heads=1),
    "harmon": TinyHarmonConfig(width=64, num_layers=7, num_heads=2),
}


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("verb", ["understand", "generate"])
def test_many_layers_are_extrapolated_from_few(monkeypatch: pytest.MonkeyPatch, kind: str, verb: str):
    network: Any = outline(DEEP[kind])
    few = profile(network, request_for(verb))
    monkeypatch.setattr(profiling, "_FEW_LAYERS", 99)
    all_layers = profile(network, request_for(verb))
    assert [stretch.part for stretch in few] == [stretch.part for stretch in all_layers]
    for one, other in zip(few, all_layers, strict=True):
        assert max(one.peaks.values()) == pytest.approx(max(other.peaks.values()), rel=0.01)
        assert one.work.flops == pytest.approx(other.work.flops, rel=0.01)
        assert sum(one.brought.values()) == sum(other.brought.values())
    assert len(network.adapter_host.state_dict()) == len(outline(DEEP[kind]).adapter_host.state_dict())  # type: ignore[union-attr]


def test_the_cache_grows_with_the_reply():
    network: Any = outlined("janus")

    def cache(tokens: int) -> float:
        request = Request("understand", options=(("max_tokens", tokens),))
        return max(size for stretch in profile(network, request) for size in stretch.cache.values())

    per_token = 4 * 2 * 192 * 4  # layers, keys and values, width, float32
    assert (cache(140) - cache(40)) / 100 == pytest.approx(per_token, rel=0.01)


def test_more_pixels_pictures_and_tokens_take_more():
    base = Request("generate", size=(512, 512), options=(("steps", 3),))
    changes = {"size": (1024, 1024), "batch": 2, "text_tokens": 2000}
    least = bfloat16_bytes("bagel-7b-mot", base)
    for name, value in changes.items():
        assert bfloat16_bytes("bagel-7b-mot", replace(base, **{name: value})) > least


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("bagel-7b-mot", 14.66),
        ("janus-pro-7b", 7.42),
        ("janus-pro-1b", 2.09),
        ("harmon-1.5b", 2.56),
        ("qwen2-vl-7b", 8.29),
    ],
)
def test_published_sizes_need_no_weights(name: str, billions: float):
    network = outlined(name)
    assert all(tensor.is_meta for tensor in network.parameters())
    assert sum(tensor.numel() for tensor in network.parameters()) == pytest.approx(billions * 1e9, rel=0.01)


def test_weights_are_halved_and_quantised():
    totals = {}
    for name, precision in PRECISIONS.items():
        network = outlined("bagel-7b-mot")
        set_precision(network, precision)
        totals[name] = weigh(network).total
    assert totals["bfloat16"] == pytest.approx(0.5 * totals["float32"], rel=0.02)
    assert totals["int8"] == pytest.approx(0.55 * totals["bfloat16"], rel=0.02)
    assert totals["nf4"] < 0.35 * totals["bfloat16"]


@pytest.fixture(scope="module")
def bagel() -> Plan:
    return plan("bagel-7b-mot", Request("understand"))


def test_what_is_recommended_fits_and_is_exact_if_it_can_be(bagel: Plan):
    flags = {gib: mode.flags if (mode := bagel.recommended(gib * GIB)) else None for gib in (80, 24, 13, 2)}
    assert flags == {80: "--dtype bfloat16", 24: flags[24], 13: flags[13], 2: None}
    assert flags[24] == "--dtype bfloat16 --quantize int8"
    assert flags[13] == "--dtype bfloat16 --quantize nf4"


def test_offloaded_weights_wait_on_the_host_and_cost_time(bagel: Plan):
    modes = {(mode.precision, mode.offload): mode for mode in bagel.modes}
    whole, parts, layers = (modes["bfloat16", offload] for offload in OFFLOADS)
    assert whole.device > parts.device > layers.device
    assert whole.seconds < parts.seconds < layers.seconds
    assert parts.host == layers.host > whole.host + 20 * GIB
    assert bagel.download == pytest.approx(29.6e9, rel=0.01)


def test_time_follows_the_rates():
    request = Request("generate", options=(("steps", 3),))
    slow = plan("janus", request, Rates(tflops=1e-3, memory_gb=1e6, launch_us=0.0)).modes[0].seconds
    fast = plan("janus", request, Rates(tflops=2e-3, memory_gb=1e6, launch_us=0.0)).modes[0].seconds
    assert slow == pytest.approx(2 * fast, rel=1e-6)


def test_steps_are_extrapolated():
    """The time of 40 steps, of which few are traced, is that of 8 and of 32 more."""
    rates = Rates(memory_gb=1e6, launch_us=0.0, tflops=1e-3)

    def seconds(steps: int) -> float:
        return plan("harmon", Request("generate", options=(("steps", steps),)), rates).modes[0].seconds

    assert seconds(40) - seconds(24) == pytest.approx(seconds(24) - seconds(8), rel=0.15)


def test_a_folder_is_planned_with_its_own_words():
    assert weigh(outlined(str(TINY))).total == weigh(outlined("tiny")).total > weigh(outlined("omnibridge")).total


def test_every_release_has_an_outline_that_can_be_planned():
    for name in RELEASES:
        network = outlined(name)
        verb: Any = "generate" if "generate" in network.skills else "understand"
        options = (("steps", 2),) if verb == "generate" else ()
        if name.startswith("harmon"):
            options += (("denoising_steps", 2),)
        assert bfloat16_bytes(name, Request(verb, options=options)) > GIB


@pytest.mark.parametrize(
    ("text", "gib"), [("24GB", 24), ("24", 24), ("24 GiB", 24), ("24576MB", 24), ("0.5g", 0.5), ("80gb", 80)]
)
def test_memory_is_read_as_makers_write_it(text: str, gib: float):
    assert parse_memory(text) == gib * GIB


@pytest.mark.parametrize("text", ["", "GB", "-1", "0", "nan", "inf", "24XB", "1e99"])
def test_other_sizes_are_refused(text: str):
    with pytest.raises(UserError, match="no size of a GPU's memory"):
        parse_memory(text)
