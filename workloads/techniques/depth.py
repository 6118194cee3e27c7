"""Tokens run through some of the layers, or through one layer repeatedly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from workloads.model import Model
from workloads.operators import Attention, Gemm
from workloads.phases import Named
from workloads.schedule import Change, Pass, Schedule
from workloads.step import Step
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import IN_LAYERS, KEYS, also, sequences, share_of_layers, with_layers
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
    on_arrays = True
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


@dataclass(frozen=True)
class DepthRouting(Technique):
    """Every second layer processes only some of the tokens; the others skip it on the residual stream."""

    name = "mixture-of-depths"
    aliases = ("mod",)
    category = "dynamic inference"
    paper = "Mixture-of-Depths arXiv:2404.02258"
    removes = "work and cache of the tokens that skip a layer"
    adds = "a router per routed layer"
    needs = "a model trained with it"
    quality = "retrained"
    slot = "which layers run"

    capacity: float = parameter(
        0.125, "share of tokens that a routed layer takes (the paper: 12.5 %)", low=0.001, high=1
    )
    every: int = parameter(2, "every so many layers one routes (the paper: 2)", low=1, high=1000)

    def apply(self, schedule: Schedule) -> Schedule:
        """Routed layers as a pass of their own, over fewer tokens."""
        if self.capacity == 1:
            return schedule
        share = 1 / self.every
        passes: list[Pass] = []
        for p in schedule.passes:
            if p.scope:
                passes.append(p)
                continue
            passes.append(
                replace(p, changes=(*p.changes, share_of_layers(1 - share), self._routers(p.model)))
            )
            routed = replace(p, changes=(*p.changes, _layers_only, share_of_layers(share)), scope="routed.")
            passes.append(self._fewer(routed))
        kept = 1 - share * (1 - self.capacity)
        found = replace(schedule, passes=tuple(passes))
        return found.with_main(cache_factor=schedule.main.cache_factor * kept)

    def _routers(self, model: Model) -> Change:
        """A product of every token with one column in each layer that routes (section 3.4)."""

        def make(rows: Sequence[Named], step: Step) -> list[Named]:
            column = Gemm(step.tokens, 1, model.hidden)
            return [Named(f"{IN_LAYERS}depth_router", column, len(model.layers) / self.every)]

        return also(make)

    def _fewer(self, p: Pass) -> Pass:
        """A prompt is shorter; of a decoding batch a part is processed, and sometimes none."""
        if p.q_len > 1:
            kept = max(1, round(p.q_len * self.capacity))
            dropped = p.q_len - kept
            encoded = p.memory - dropped if p.memory else 0
            return replace(p, q_len=kept, first=p.first - dropped, last=p.last - dropped, memory=encoded)
        batch = sequences(p, self.capacity)
        some = 1 - (1 - self.capacity) ** p.batch  # that at least one token of the batch is taken
        encoded = round(p.memory * self.capacity)  # of an encoder's positions, too
        seen = [encoded + max(1, round((kv - p.memory) * self.capacity)) for kv in (p.first, p.last)]
        return replace(p, batch=batch, first=seen[0], last=seen[1], memory=encoded, times=p.times * some)


def _layers_only(rows: Sequence[Named], step: Step) -> list[Named]:
    return [row for row in rows if IN_LAYERS in row.name]


@dataclass(frozen=True)
class Universal(Technique):
    """One layer is applied repeatedly, as often as each token needs."""

    name = "universal-transformer"
    aliases = ("adaptive-computation-time",)
    category = "dynamic inference"
    paper = "Universal Transformers arXiv:1807.03819"
    removes = "the weights of all layers but one; iterations of easy tokens"
    needs = "a model trained with it"
    quality = "retrained"
    slot = "which layers run"
    on_arrays = True
    assumed = ("iterations",)

    iterations: float = parameter(
        0.5, "mean iterations over the layers that the model has", low=0.001, high=10
    )

    def apply(self, schedule: Schedule) -> Schedule:
        """The most frequent layer's weights in every place; each iteration reads them and caches its own."""
        usual, _ = schedule.main.model.stack.distinct.most_common(1)[0]
        again = replace(usual, repeats=True)
        found = with_layers(schedule, lambda old: (usual, *(again for _ in old[1:])))
        if self.iterations == 1:
            return found
        found = found.with_change(share_of_layers(self.iterations), held=False)
        return found.with_main(cache_factor=schedule.main.cache_factor * self.iterations)
