"""Next-k-token prediction: several tokens per pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from workloads.phases import Named
from workloads.schedule import Schedule
from workloads.step import Step
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import IN_LAYERS, KEYS, also
from workloads.techniques.conditions import no_decoding
from workloads.techniques.decoding import in_rounds

OTHER_STACKS = ("encoder.", "vision.")  # which yield no tokens


@dataclass(frozen=True)
class NextK(Technique):
    """The model yields k tokens per pass through k heads on a shared trunk, without verification."""

    name = "next-k-tokens"
    aliases = ("multi-token-heads",)
    category = "alternative paradigms"
    paper = "Gloeckle et al. arXiv:2404.19737"
    removes = "decode passes: one for every k tokens"
    adds = "a head of one layer per further token; the vocabulary projection for each"
    needs = "a model trained to predict several tokens"
    quality = "retrained"
    slot = "how tokens are made"
    refused_by = (no_decoding,)

    k: int = parameter(4, "tokens per pass (the paper: 4)", low=1, high=32)

    def apply(self, schedule: Schedule) -> Schedule:
        """A pass reads the last k tokens, and each head adds a layer, its cache and a projection.

        Heads read the prompt, too: their layers attend to it.
        """
        if self.k == 1:
            return schedule
        found = in_rounds(schedule, self.k, self.k, lambda plain, rounds: [])
        found = found.with_change(also(self._heads))
        more = (self.k - 1) / len(schedule.main.model.layers)
        return found.with_main(cache_factor=schedule.main.cache_factor * (1 + more))

    def _heads(self, rows: Sequence[Named], step: Step) -> list[Named]:
        """k - 1 further layers; the head of the first token is the model's last layer."""
        inside = [row for row in rows if IN_LAYERS in row.name and not row.name.startswith(OTHER_STACKS)]
        # Of layers that a token skips keys and values are made all the same; a head is a layer for itself.
        layers = max((row.count for row in inside if not row.name.endswith(KEYS)), default=1)
        shares = ((row, min(row.count, layers) / layers) for row in inside)
        return [
            replace(row, name=f"heads.{row.name}", count=(self.k - 1) * share, repeated=0)
            for row, share in shares
        ]
