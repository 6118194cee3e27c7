"""Early exit and layer skipping: easy tokens leave before the last layer."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.schedule import Schedule
from workloads.techniques.base import STRUCTURE, Target, Technique, parameter
from workloads.techniques.changes import KEYS, NOTHING_DECODED, decodes, share_of_layers


@dataclass(frozen=True)
class EarlyExit(Technique):
    """On average a token needs a share of the layers; a classifier behind each tells when to leave."""

    name = "early-exit"
    aliases = ("calm", "layer-skipping", "depth-adaptive", "depth-adaptive-transformer")
    level = "model"
    category = "dynamic inference"
    paper = "CALM arXiv:2207.07061; Depth-adaptive transformer arXiv:1910.10073"
    removes = "layers of decode steps"
    adds = "keys and values of the skipped layers, which later tokens attend to (CALM, section 3.4)"
    needs = "a confidence measure and a model trained to exit"
    quality = "lossy"
    slot = "which layers run"
    order = STRUCTURE
    assumed = ("layers",)

    layers: float = parameter(
        0.5, "mean share of layers that run (CALM: up to three times as fast)", low=0, high=1
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """Tokens of a prompt leave at different layers; only decode can stop early."""
        return None if decodes(schedule) else NOTHING_DECODED

    def apply(self, schedule: Schedule) -> Schedule:
        """A batch leaves together when its last sequence does; `layers` is the share that the batch runs.

        Keys and values of all layers are made from the last computed state.
        """
        return schedule.with_change(share_of_layers(self.layers, KEYS), "decode")
