"""Early exit and layer skipping: easy tokens leave before the last layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from workloads.operators import Attention, Gemm
from workloads.phases import Named
from workloads.schedule import Schedule
from workloads.step import Step
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import KEYS, share_of_layers
from workloads.techniques.conditions import no_decoding

JOINED = ".qkv_proj"  # suffix of fused products of queries, keys and values


@dataclass(frozen=True)
class EarlyExit(Technique):
    """A token runs through a share of the layers on average; a classifier after each decides when to stop."""

    name = "early-exit"
    aliases = ("calm", "layer-skipping", "depth-adaptive", "depth-adaptive-transformer")
    category = "dynamic inference"
    paper = "CALM arXiv:2207.07061; Depth-adaptive transformer arXiv:1910.10073"
    removes = "layers of decode steps"
    adds = "keys and values of the skipped layers, which later tokens attend to (CALM, section 3.4)"
    needs = "a confidence measure and a model trained to exit"
    quality = "lossy"
    slot = "which layers run"
    refused_by = (no_decoding,)
    assumed = ("layers",)

    layers: float = parameter(
        0.5, "mean share of layers that run (CALM: up to three times as fast)", low=0, high=1
    )

    def apply(self, schedule: Schedule) -> Schedule:
        """A batch leaves together when its last sequence does; `layers` is the share that the batch runs.

        Keys and values of all layers are made from the last computed state.
        """
        fewer = share_of_layers(self.layers, KEYS)

        def change(rows: Sequence[Named], step: Step) -> list[Named]:
            return [*fewer(rows, step), *_keys_of_joined(rows, 1 - self.layers)]

        return schedule.with_change(change, "decode")


def _keys_of_joined(rows: Sequence[Named], skipped: float) -> list[Named]:
    """The columns of keys and values of fused QKV products, in the skipped layers."""
    cores = {row.name.rpartition(".")[0]: row.operator for row in rows if isinstance(row.operator, Attention)}
    found = []
    for row in rows:
        core = cores.get(row.name.rpartition(".")[0])
        if skipped and core and row.name.endswith(JOINED) and isinstance(row.operator, Gemm):
            share = 2 * core.kv_heads / (core.heads + 2 * core.kv_heads)
            keys = replace(row.operator, n=round(row.operator.n * share))
            found.append(replace(row, name=f"{row.name}.keys", operator=keys, count=row.count * skipped))
    return found
