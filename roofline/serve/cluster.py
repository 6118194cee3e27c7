"""Engines side by side: copies that share the requests, or some that read and others that decode."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from roofline.serve.engine import Engine, Log, Policy
from roofline.serve.memory import Room
from roofline.serve.requests import Requests
from roofline.serve.step_times import StepTimes


@dataclass(frozen=True)
class Cluster:
    """Engines of one model, each on devices of its own.

    With `readers`, those engines read prompts and send the cache over `link_byte_per_s` to the `engines`,
    which decode (disaggregation: Splitwise arXiv:2311.18677, DistServe arXiv:2401.09670); without, every
    engine does both. Requests are dealt in turn.
    """

    times: StepTimes
    room: Room
    policy: Policy
    engines: int = 1
    readers: int = 0
    link_byte_per_s: float = 0.0

    @property
    def count(self) -> int:
        """Engines in all."""
        return self.engines + self.readers

    def serve(self, requests: Requests) -> tuple[Log, list[Log]]:
        """The moments of all requests, and the log of each engine, those that read first."""
        if not self.readers:
            return _together(requests, self._engines(requests, self.engines, self.policy))
        alone = replace(requests, output=np.ones_like(requests.output))
        read, readers = _together(requests, self._engines(alone, self.readers, self.policy))
        there_s = self._sent_s(requests, read.first_s)
        order = np.argsort(there_s, kind="stable")
        sent = Requests(there_s[order], requests.prompt[order], requests.output[order] - 1)
        more = np.flatnonzero(sent.output > 0)
        last, first_s = read.first_s.copy(), read.first_s[order[more]]
        sent = sent.take(more)
        decoded, decoders = _together(sent, self._engines(sent, self.engines, self.policy, first_s))
        last[order[more]] = decoded.last_s
        both = Log(requests.arrival_s, read.first_s, last, decoded.gaps_s, decoded.weights)
        return both, readers + decoders

    def _sent_s(self, requests: Requests, first_s: np.ndarray) -> np.ndarray:
        """When the cache of each request has been sent: a reader sends one after the other."""
        there_s = first_s.copy()
        moved_s = self.room.held[requests.prompt] / self.link_byte_per_s * (requests.output > 1)
        for read in requests.dealt(self.readers):
            index = read[np.argsort(first_s[read], kind="stable")]
            before_s = np.cumsum(moved_s[index]) - moved_s[index]  # of the link, until each one's turn
            begun_s = before_s + np.maximum.accumulate(first_s[index] - before_s)
            there_s[index] = begun_s + moved_s[index]
        return there_s

    def _engines(
        self, requests: Requests, count: int, policy: Policy, first_s: np.ndarray | None = None
    ) -> list[tuple[np.ndarray, Log]]:
        engine = Engine(self.times, self.room, policy)
        dealt = [index for index in requests.dealt(count) if len(index)]
        return [
            (index, engine.serve(requests.take(index), None if first_s is None else first_s[index]))
            for index in dealt
        ]


def _together(requests: Requests, served: list[tuple[np.ndarray, Log]]) -> tuple[Log, list[Log]]:
    """One log of all requests from the logs of engines that served some each."""
    none = np.full(len(requests), np.nan)
    whole = Log(none.copy(), none.copy(), none.copy())
    for index, log in served:
        whole.arrival_s[index] = log.arrival_s
        whole.first_s[index], whole.last_s[index] = log.first_s, log.last_s
        whole.gaps_s += log.gaps_s
        whole.weights += log.weights
    return whole, [log for _, log in served]
