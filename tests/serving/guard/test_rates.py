"""Token buckets with a fake clock."""

from __future__ import annotations

import pytest

from latentbridge.errors import UserError
from latentbridge.serving.api_errors import ApiError
from latentbridge.serving.guard.rates import Allowance, Rates, parse_allowances


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def refusal(ask, *arguments) -> ApiError:
    with pytest.raises(ApiError) as caught:
        ask(*arguments)
    return caught.value


def test_a_full_bucket_allows_a_burst():
    clock = Clock()
    rates = Rates({"chat": Allowance(requests=6)}, clock)
    for _ in range(6):
        rates.request("ada", "chat")
    late = refusal(rates.request, "ada", "chat")
    assert (late.status_code, late.headers) == (429, {"Retry-After": "10"})  # six a minute is one in ten seconds
    clock.now_s += 9.5
    assert refusal(rates.request, "ada", "chat").headers == {"Retry-After": "1"}
    clock.now_s += 0.5
    rates.request("ada", "chat")
    assert refusal(rates.request, "ada", "chat").status_code == 429


def test_retry_after_is_long_enough():
    clock = Clock()
    rates = Rates({"draw": Allowance(cost=700)}, clock)
    rates.charge("ada", "draw", 650)
    wait = refusal(rates.charge, "ada", "draw", 190)
    assert wait.headers == {"Retry-After": "12"}  # 140 steps are missing, 700 / 60 come in a second
    clock.now_s += 12
    rates.charge("ada", "draw", 190)


def test_a_rejected_request_costs_nothing_and_a_bucket_does_not_overflow():
    clock = Clock()
    rates = Rates({"draw": Allowance(cost=100)}, clock)
    rates.charge("ada", "draw", 60)
    for _ in range(5):
        refusal(rates.charge, "ada", "draw", 50)
    rates.charge("ada", "draw", 40)
    clock.now_s += 3_600
    rates.charge("ada", "draw", 100)
    refusal(rates.charge, "ada", "draw", 1)


def test_keys_kinds_and_units_have_buckets_of_their_own():
    rates = Rates({"draw": Allowance(1, 10), "chat": Allowance(1)}, Clock())
    rates.request("ada", "draw")
    rates.charge("ada", "draw", 10)
    rates.request("ada", "chat")
    rates.request("bob", "draw")
    rates.charge("ada", "chat", 1e9)
    rates.request("ada", "embed")
    assert refusal(rates.request, "ada", "draw").status_code == 429
    assert "draw" in refusal(rates.charge, "ada", "draw", 1).detail


def test_a_cost_above_the_bucket_is_a_bad_request():
    rates = Rates({"draw": Allowance(cost=100)}, Clock())
    assert refusal(rates.charge, "ada", "draw", 101).status_code == 400
    rates.charge("ada", "draw", 100)


def test_allowances_are_parsed():
    kinds = ("draw", "chat")
    assert parse_allowances(["draw=30,1200", "chat=7"], kinds) == {"draw": Allowance(30, 1_200), "chat": Allowance(7)}
    assert parse_allowances([], kinds) == {}


@pytest.mark.parametrize(
    "setting", ["paint=3", "draw", "draw=", "draw=x", "draw=0", "draw=-1", "draw=nan", "draw=inf", "draw=1,2,3"]
)
def test_invalid_allowances_are_rejected(setting: str):
    with pytest.raises(UserError):
        parse_allowances([setting], ("draw", "chat"))
