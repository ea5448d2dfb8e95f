"""Rate limits: token buckets per key and kind of request, for requests and for their cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from latentbridge.errors import UserError
from latentbridge.serving.api_errors import ApiError, rate_limited


@dataclass(frozen=True)
class Allowance:
    """The limits of one key for one kind of request, per minute; a full minute's worth may come as a burst."""

    requests: float = math.inf
    cost: float = math.inf
    """In model steps: tokens requested, denoising steps times pictures, items to embed."""


@dataclass
class _Bucket:
    size: float
    """Capacity, and refill per minute."""
    level: float
    updated_s: float

    def take(self, amount: float, now_s: float) -> float:
        """Take the amount and return 0, or take nothing and return the seconds until it is available."""
        self.level = min(self.size, self.level + (now_s - self.updated_s) * self.size / 60)
        self.updated_s = now_s
        if amount <= self.level:
            self.level -= amount
            return 0.0
        return (amount - self.level) * 60 / self.size


@dataclass
class Rates:
    """The buckets of all keys; owners are names of keys, so there are few.

    Ours, since it is twenty lines: of the libraries, limits, throttled-py and pyrate-limiter count requests in windows or
    bring storage, decorators and a clock of their own, where tests need to set the clock.
    """

    allowances: Mapping[str, Allowance] = field(default_factory=dict)
    """By kind of request; other kinds are unlimited."""
    clock: Callable[[], float] = time.monotonic
    _buckets: dict[tuple[str, str, str], _Bucket] = field(default_factory=dict)

    def request(self, owner: str, kind: str) -> None:
        """Count a request before its body is read; raises a 429 above the limit."""
        self._take(owner, kind, "requests", 1.0)

    def charge(self, owner: str, kind: str, cost: float) -> None:
        """Count a request's cost before it is queued; raises a 429, or a 400 if the cost exceeds a full bucket."""
        self._take(owner, kind, "cost", cost)

    def _take(self, owner: str, kind: str, unit: str, amount: float) -> None:
        size = getattr(self.allowances.get(kind, Allowance()), unit)
        if size == math.inf:
            return
        if amount > size:
            message = f"This would cost {amount:g} steps and {size:g} are allowed in a minute; ask for less at once."
            raise ApiError(400, message, "cost_exceeds_limit")
        now_s = self.clock()
        bucket = self._buckets.setdefault((owner, kind, unit), _Bucket(size, size, now_s))
        if wait_s := bucket.take(amount, now_s):
            message = f"Your key may spend {size:g} {unit} a minute on {kind}; wait {math.ceil(wait_s)} s."
            raise rate_limited(message, wait_s)


def parse_allowances(settings: list[str], kinds: tuple[str, ...]) -> dict[str, Allowance]:
    """Return allowances from `KIND=REQUESTS` or `KIND=REQUESTS,COST`, per minute, as on the command line."""
    allowances = {}
    for setting in settings:
        kind, _, amounts = setting.partition("=")
        if kind not in kinds:
            raise UserError(
                f"{setting!r} limits no kind of request; write one of {', '.join(kinds)}, as in {kinds[0]}=60."
            )
        try:
            limits = [float(amount) for amount in amounts.split(",")]
        except ValueError:
            limits = []
        if not 1 <= len(limits) <= 2 or not all(1 <= limit < math.inf for limit in limits):
            raise UserError(
                f"{setting!r} is no limit; write requests a minute, or requests and cost, as in {kind}=60,4000."
            )
        allowances[kind] = Allowance(*limits)
    return allowances
