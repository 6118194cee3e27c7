"""How requests come to a server: how many, how evenly, how different in length."""

from __future__ import annotations

from typing import Annotated

import msgspec

from specfiles.strict import Strict

Rate = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
Rates = Rate | Annotated[list[Rate], msgspec.Meta(min_length=1, max_length=1000)]
User = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Users = User | Annotated[list[User], msgspec.Meta(min_length=1, max_length=1000)]
Variation = Annotated[float, msgspec.Meta(ge=0, le=20)]

USUAL = 500  # requests


class Traffic(Strict, frozen=True, kw_only=True):
    """The `traffic` of a workload file, whose `prompt` and `output` are the mean lengths.

    rate_per_s: requests per second, one or several to compare. users: instead of a rate so many, one or
    several to compare, who each send the next request when an answer has ended (a closed loop).
    requests: how many are simulated; 500 where nothing is said, and where the highest rate is looked for as
    many as that takes.
    burstiness: coefficient of variation of the gaps between arrivals; 1 is a Poisson process, 0 a clock.
    prompt_cv, output_cv: coefficients of variation of the lengths; 0 makes them all alike.
    """

    rate_per_s: Rates | None = None
    users: Users | None = None
    requests: Annotated[int, msgspec.Meta(gt=0, le=1_000_000)] | None = None
    burstiness: Variation = 1.0
    prompt_cv: Variation = 0.0
    output_cv: Variation = 0.0
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32)] = 0

    @property
    def count(self) -> int:
        """Requests to draw."""
        return self.requests or USUAL

    @property
    def rates(self) -> list[float]:
        """The rates that are asked for, in requests per second."""
        if self.rate_per_s is None:
            return []
        return self.rate_per_s if isinstance(self.rate_per_s, list) else [self.rate_per_s]

    @property
    def loops(self) -> list[int]:
        """The numbers of users that are asked for."""
        if self.users is None:
            return []
        return self.users if isinstance(self.users, list) else [self.users]
