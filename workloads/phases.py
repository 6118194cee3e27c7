"""A model in a phase, as named operators with repeat counts.

The names are those of the NVTX ranges of a measured run, so that predicted and measured rows join. Prefill,
decode and chunked prefill are one function: a step computes `q_len` new positions per sequence, which attend
to `kv_len` positions, themselves included. Sizes may be arrays over a grid.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

from specfiles.frozen import dataclass
from workloads.blocks import Part, Place
from workloads.convention import Convention
from workloads.layer import Layer
from workloads.model import Model, Stack
from workloads.operators import Attention, Gemm, GroupedGemm, Operator, Send
from workloads.step import PLAIN, Setting, Step, decode, prefill

__all__ = [
    "ACTIVE_CONVENTIONS",
    "ActiveConvention",
    "Named",
    "Setting",
    "Step",
    "active_parameters",
    "decode",
    "laid_out",
    "names_in_layers",
    "operators",
    "owners",
    "parameters",
    "prefill",
    "weight_bytes",
]


@dataclass(frozen=True)
class Named:
    """An operator with its range name, executed `count` times per step."""

    name: str
    operator: Operator
    count: float  # whole, but where a technique runs it for some tokens only
    repeated: float = 0  # of them with the weights of another execution

    def parameters(self) -> int:
        """Weight elements of all executions, shared ones once."""
        return round((self.count - self.repeated) * self.operator.parameters())

    def active_parameters(self) -> int:
        """Those of them that the executions use."""
        return round((self.count - self.repeated) * self.operator.active_parameters())


def operators(model: Model, step: Step, setting: Setting = PLAIN) -> list[Named]:
    """Every operator of one step in the order of first execution, on one of the devices."""
    return laid_out(_rows(model.passes(setting.own(step)), setting), setting.convention)


def laid_out(rows: list[Named], convention: Convention) -> list[Named]:
    """The operator with the tiling of the convention's kernels, if the convention states one."""
    if not convention.by_tiles:
        return rows
    return [replace(row, operator=_in_tiles(row.operator, convention)) for row in rows]


def _in_tiles(operator: Operator, convention: Convention) -> Operator:
    if isinstance(operator, Attention):
        return replace(operator, splits=convention.splits_keys)
    if isinstance(operator, Gemm | GroupedGemm):
        return replace(operator, padded=convention.padded_rows)
    return operator


def owners(model: Model, setting: Setting = PLAIN) -> list[Named]:
    """The operators of all stacks at one position: whoever owns a weight is among them.

    They depend on nothing else and are kept with the model, but where formats are arrays over a grid.
    """
    try:
        known = model.owned.get(setting)
    except TypeError:  # arrays have no hash
        return _owners(model, setting)
    if known is None:
        known = model.owned[setting] = _owners(model, setting)
    return list(known)


def _owners(model: Model, setting: Setting) -> list[Named]:
    return _rows([(stack, Step(1, 1, 1, memory=1)) for stack in model.stacks], setting)


def _rows(passes: Iterable[tuple[Stack, Step]], setting: Setting) -> list[Named]:
    rows: dict[tuple[str, object], Named] = {}
    for stack, sizes in passes:
        place = Place(stack.hidden, sizes, stack.setting(setting))
        for (name, key, operator), count, repeated in _executions(stack, place):
            before = rows.get((name, key))
            already, shared = (before.count, before.repeated) if before else (0, 0)
            rows[name, key] = Named(name, operator, already + count, shared + repeated)
    return _distinct(list(rows.values()))


def _executions(stack: Stack, place: Place) -> Iterator[tuple[Part, int, int]]:
    """Every part of a stack, how often it runs, and how many of these runs reuse another layer's weights."""
    for block in stack.inputs:
        for name, key, operator in block.parts(place):
            yield (stack.scope + name, key, operator), 1, 0
    for layer, count in stack.distinct.items():
        for name, key, operator in layer.parts(place):
            part = (f"{stack.scope}layers.{name}", key, operator)
            yield part, count, count if layer.repeats or name in layer.borrows else 0
    if sends := place.setting.pipeline_parallel - 1:
        send = Send(place.tokens / place.setting.tensor_parallel, place.hidden, place.setting.precision.wide)
        yield (f"{stack.scope}stage_send", None, send), sends, 0
    for name, key, operator in stack.ends(place):
        yield (stack.scope + name, key, operator), 1, 0


ActiveConvention = Literal["all", "without input embedding", "without embeddings"]
INPUTS = ("embedding", "per_layer_embedding", "layers.ngram.embedding")
ACTIVE_CONVENTIONS: dict[ActiveConvention, tuple[str, ...]] = {
    "all": (),
    "without input embedding": INPUTS,
    "without embeddings": (*INPUTS, "lm_head"),
}


def parameters(model: Model) -> int:
    """Weight elements of the model: the sum over its operators."""
    return sum(row.parameters() for row in owners(model))


def active_parameters(model: Model, convention: ActiveConvention = "all") -> int:
    """Weight elements that one token uses: of routed experts only those it is sent to.

    Publishers differ on whether the input embeddings (a token uses one row) and the vocabulary projection
    count, too. A projection that shares the embedding table counts once.
    """
    left_out = ACTIVE_CONVENTIONS[convention]
    # An encoder works for every token of the decoder; a tower for images alone.
    rows = owners(model) if model.has_memory else operators(model, decode(1, 1))
    unscoped = ((row, row.name.removeprefix("encoder.").removeprefix("decoder.")) for row in rows)
    return sum(row.active_parameters() for row, name in unscoped if _unnumbered(name) not in left_out)


def weight_bytes(rows: Iterable[Named]) -> float:
    """Bytes of the weights that operators own, on one device."""
    return sum((row.count - row.repeated) * row.operator.stored_bytes() for row in rows)


def _distinct(rows: list[Named]) -> list[Named]:
    """Number the later of different operators that have the same name in layers of different shapes."""
    seen: Counter[str] = Counter()
    named = []
    for row in rows:
        seen[row.name] += 1
        named.append(row if seen[row.name] == 1 else replace(row, name=_numbered(row.name, seen[row.name])))
    return named


def names_in_layers(stack: Stack, setting: Setting = PLAIN) -> dict[Layer, dict[str, str]]:
    """What each different layer has by the name that a layer gives it: the name among all operators.

    They differ where layers of other shapes come first.
    """
    place = Place(stack.hidden, Step(1, 1, 1, memory=1), setting)
    kinds: dict[str, list[object]] = defaultdict(list)
    found: dict[Layer, dict[str, str]] = {}
    for layer in stack.distinct:
        names = found[layer] = {}
        for part, key, _ in layer.parts(place):
            name = f"{stack.scope}layers.{part}"
            if key not in kinds[name]:
                kinds[name].append(key)
            names[name] = _numbered(name, 1 + kinds[name].index(key))
    return found


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}.{number}"


def _unnumbered(name: str) -> str:
    return name.rstrip(".0123456789")
