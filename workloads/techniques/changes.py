"""Changes of requests, of layers and of operators that techniques share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from workloads.arrays import minimum
from workloads.blocks import Block
from workloads.dtypes import bytes_per_element
from workloads.layer import Layer
from workloads.model import Model
from workloads.operators import Attention, Changed, Gemm, GroupedGemm, Operator
from workloads.phases import Named
from workloads.schedule import Change, Pass, Schedule
from workloads.step import Step
from workloads.work import Role, Work

B = TypeVar("B", bound=Block)
Product = TypeVar("Product", Gemm, GroupedGemm)
PRODUCTS = (Gemm, GroupedGemm)
KEYS = (".k_proj", ".v_proj", ".kv_a_proj", ".kv_a_norm", ".kv_append")  # compute keys and values
CHOOSING = ("router", "shared_gate")  # select experts
TOWER = "vision."
IN_LAYERS = "layers."  # the names of operators inside layers; the embedding and the vocabulary are outside


def on(
    kinds: type[Operator] | tuple[type[Operator], ...], edit: Callable[[Any], Operator], where: str = ""
) -> Change:
    """A change of every operator of some kinds whose name contains `where`."""
    return on_rows(lambda row: isinstance(row.operator, kinds) and where in row.name, edit)


def on_projections(edit: Callable[[Any], Operator]) -> Change:
    """A change of every product with weights in the layers, experts included; routers are unchanged."""
    return on_rows(is_projection, edit)


def on_rows(chosen: Callable[[Named], bool], edit: Callable[[Any], Operator]) -> Change:
    """A change of the operators of chosen rows."""
    return each_row(lambda row: [replace(row, operator=edit(row.operator)) if chosen(row) else row])


def each_row(edit: Callable[[Named], Iterable[Named]]) -> Change:
    """A change that replaces each row by others."""
    return lambda rows, step: [new for row in rows for new in edit(row)]


def is_projection(row: Named) -> bool:
    """Whether a row is a product with layer weights that formats and sparsity may change.

    Routers are excluded, as the selection of experts must not change, and vision towers, as in checkpoints.
    """
    inside = IN_LAYERS in row.name and not row.name.endswith(CHOOSING) and not row.name.startswith(TOWER)
    return inside and isinstance(row.operator, PRODUCTS)


def in_format(product: Product, weights: str, inputs: str | None = None) -> Product:
    """A product with its weights in one format, computed in another; narrower weights are unchanged."""
    if bytes_per_element(product.weights) < bytes_per_element(weights):
        return product
    return replace(product, weights=weights, inputs=inputs or product.inputs)


def also(make: Callable[[Sequence[Named], Step], list[Named]]) -> Change:
    """A change that appends operators."""
    return lambda rows, step: [*rows, *make(rows, step)]


def with_blocks(schedule: Schedule, kind: type[B], edit: Callable[[B], Block]) -> Schedule:
    """The schedule with every block of a kind in the main model's layers edited."""

    def layer(old: Layer) -> Layer:
        return replace(old, blocks=tuple(edit(b) if isinstance(b, kind) else b for b in old.blocks))

    return with_layers(schedule, lambda old: map(layer, old))


def with_layers(schedule: Schedule, edit: Callable[[tuple[Layer, ...]], Iterable[Layer]]) -> Schedule:
    """The schedule with other layers in the main model."""

    def model(old: Model) -> Model:
        return replace(old, stack=replace(old.stack, layers=tuple(edit(old.layers))))

    return schedule.with_model(model)


def with_fewer_layers(schedule: Schedule, share: float) -> Schedule:
    """The schedule with a share of the main model's layers, and as large a share of each kind of them."""

    def kept(old: tuple[Layer, ...]) -> Iterator[Layer]:
        distinct, seen = Counter(old), Counter[Layer]()
        for layer in old:
            there, before = distinct[layer], seen[layer]
            left = max(1, int(share * there + 0.5))
            seen[layer] += 1
            if (before + 1) * left // there > before * left // there:
                yield layer

    return with_layers(schedule, kept)


def blocks(schedule: Schedule, kind: type[B]) -> list[B]:
    """The blocks of a kind in the main model's layers."""
    return [b for layer in schedule.main.model.layers for b in layer.blocks if isinstance(b, kind)]


def shortened(schedule: Schedule, kept: int) -> Schedule:
    """The schedule with `kept` positions of the prompt read, seen and cached by the main model."""
    dropped = schedule.prompt - kept

    def shorter(p: Pass) -> Pass:
        read = p.q_len - dropped if p.phase == "prefill" else p.q_len
        encoded = p.memory - dropped if p.memory else 0  # the prompt is what an encoder reads
        return replace(p, q_len=read, first=p.first - dropped, last=p.last - dropped, memory=encoded)

    main = schedule.main
    found = replace(schedule.each(None, shorter), prompt=kept)
    encoded = main.memory - dropped if main.memory else 0
    return found.with_main(tokens=main.tokens - dropped, memory=encoded)


def sequences(p: Pass, share: float) -> Any:
    """A share or a multiple of a pass's sequences: whole ones of each part of the batch, at least one."""
    parts = p.setting.replicas
    return max(1, round(p.batch * share / parts)) * parts


def share_of_layers(share: float, spared: tuple[str, ...] = ()) -> Change:
    """A change that runs a share of the layers; operators whose names end in `spared` run in all."""

    def fewer(row: Named) -> list[Named]:
        if IN_LAYERS not in row.name or row.name.endswith(spared):
            return [row]
        return [replace(row, count=row.count * share, repeated=row.repeated * share)]

    return each_row(fewer)


@dataclass(frozen=True)
class _Thinned:
    """The edit of a matrix to a share of its bytes and of its products: equal shares are equal edits."""

    weights: float
    matrix_flops: float

    def __call__(self, work: Work) -> Work:
        traffic = tuple(
            replace(t, bytes=t.bytes * self.weights) if t.role is Role.WEIGHT and t.tensor == "weight" else t
            for t in work.traffic
        )
        return replace(work, matrix_flops=work.matrix_flops * self.matrix_flops, traffic=traffic)


def with_weights(product: Operator, weights: float, matrix_flops: float = 1.0) -> Changed:
    """An operator whose matrix takes a share of its bytes and of its products."""
    return Changed(product, _Thinned(weights, matrix_flops), stored=weights)


def within(core: Attention, window: int) -> Attention:
    """Attention to the last `window` positions, where its own window is not narrower."""
    return replace(core, window=window if core.window is None else minimum(core.window, window))


def both_ways(core: Attention) -> Attention:
    """Attention in which every position sees every other."""
    return replace(core, causal=False)


def vocabulary_projection(rows: Sequence[Named]) -> Gemm | None:
    """The product that scores the vocabulary; None in a model or a stage that has none."""
    found = (row.operator for row in rows if row.name.endswith("lm_head"))
    return next((product for product in found if isinstance(product, Gemm)), None)
