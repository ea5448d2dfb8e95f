"""How much each key may ask for: token buckets per key and kind of work, in requests and in cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from latentbridge.errors import UserError
from latentbridge.serving.api_errors import ApiError, too_fast


@dataclass(frozen=True)
class Allowance:
    """What one key may ask of one kind of work in a minute; unused, as much may come at once."""

    requests: float = math.inf
    cost: float = math.inf
    """In steps of the model: tokens asked for, denoising steps times pictures, items to embed."""


@dataclass
class _Bucket:
    size: float
    """Tokens it holds, and tokens that come in a minute."""
    level: float
    seen_s: float

    def take(self, amount: float, now_s: float) -> float:
        """0 where the tokens were there and are gone now; otherwise the seconds until they would be, and none are taken."""
        self.level = min(self.size, self.level + (now_s - self.seen_s) * self.size / 60)
        self.seen_s = now_s
        if amount <= self.level:
            self.level -= amount
            return 0.0
        return (amount - self.level) * 60 / self.size


@dataclass
class Rates:
    """The buckets of all keys. Owners are names of keys, so there are few and none is ever forgotten.

    Written here, since it is twenty lines: the libraries looked at (limits, throttled-py, pyrate-limiter) count requests in
    windows or bring storage, decorators and a clock of their own, where a test needs to turn the clock.
    """

    allowances: Mapping[str, Allowance] = field(default_factory=dict)
    """By kind of work; a kind that is not named has no limit."""
    clock: Callable[[], float] = time.monotonic
    _buckets: dict[tuple[str, str, str], _Bucket] = field(default_factory=dict)

    def request(self, owner: str, kind: str) -> None:
        """Counts a request, before anything of it is read; raises a 429 where there were too many."""
        self._take(owner, kind, "requests", 1.0)

    def charge(self, owner: str, kind: str, cost: float) -> None:
        """Counts what a request will cost, before it is queued; raises a 429, or a 400 where it could never be afforded."""
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
            raise too_fast(
                f"Your key may spend {size:g} {unit} a minute on {kind}; wait {math.ceil(wait_s)} s.", wait_s
            )


def parse_allowances(settings: list[str], kinds: tuple[str, ...]) -> dict[str, Allowance]:
    """Allowances from `KIND=REQUESTS` or `KIND=REQUESTS,COST`, per minute, as the command line has them."""
    allowances = {}
    for setting in settings:
        kind, _, amounts = setting.partition("=")
        numbers = amounts.split(",")
        if kind not in kinds:
            raise UserError(
                f"{setting!r} limits no kind of work; write one of {', '.join(kinds)}, as in {kinds[0]}=60."
            )
        try:
            limits = [float(number) for number in numbers]
        except ValueError:
            limits = []
        if not 1 <= len(limits) <= 2 or not all(1 <= limit < math.inf for limit in limits):
            raise UserError(
                f"{setting!r} is no limit; write requests a minute, or requests and cost, as in {kind}=60,4000."
            )
        allowances[kind] = Allowance(*limits)
    return allowances
