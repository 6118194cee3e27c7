"""A layer of blocks: with norms around them, residual additions after them, and sums over devices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from specfiles.frozen import dataclass
from workloads.blocks.base import UNSCALED, Block, NormShape, Part, Place
from workloads.blocks.condition import modulated, of_sequences
from workloads.blocks.hyper import GatedStreams, Streams
from workloads.blocks.past import PastSums
from workloads.dtypes import Size
from workloads.operators import Residual
from workloads.step import Setting

B = TypeVar("B", bound=Block)
Formats = tuple[tuple[str, str, str], ...]  # a part's name, the format of its weights, what it multiplies in


@dataclass(frozen=True)
class Layer:
    """Blocks in order, each a branch that is added to the residual stream."""

    blocks: tuple[Block, ...]
    norm: NormShape = NormShape()
    input_norms: bool = True  # each block's input is normalised
    # Each block's result is normalised before it is added (Gemma 2), or that of one branch.
    post_norms: bool | str = False
    unscaled_post_norm: str = ""  # the branch whose norm behind it has no scale (Muse Spark)
    # Vectors that scale and shift the stream and what is added: a gate of Muse Spark, four of ZAYA.
    residual_vectors: int = 0
    stream_norms: bool = False  # the stream is normalised after each addition (BERT)
    parallel: bool = False  # all blocks read the same stream, and their results are added at once (GPT-J)
    shared_norm: bool = False  # parallel blocks share one norm of their input
    mixers: int = 0  # blocks, the first of the layer, that are parallel behind one norm (Falcon-H1)
    norm_rank: int = 0  # of gates on the norms before blocks of `gated_norms` (A.X K2)
    gated_norms: tuple[str, ...] = ()  # branches
    repeats: bool = False  # runs with the weights of a layer before it
    borrows: tuple[str, ...] = ()  # names of parts whose weights are those of an earlier layer
    streams: Streams | GatedStreams | PastSums | None = (
        None  # what blocks read and feed in place of one residual stream
    )
    condition: int = 0  # width of what shifts, scales and gates each block (adaLN, arXiv:2212.09748)
    formats: Formats = ()  # of parts that a checkpoint has in others than the setting's

    def parts(self, place: Place) -> Iterator[Part]:
        """The operators of the layer, with names relative to it: `attention.q_proj`, `mlp_norm`."""
        return in_formats(self._parts(place), self.formats) if self.formats else self._parts(place)

    def _parts(self, place: Place) -> Iterator[Part]:
        if self.parallel:
            yield from self._parallel(place, self.blocks, self.shared_norm)
            return
        if self.mixers:
            yield from self._parallel(place, self.blocks[: self.mixers], shared_norm=True)
        if self.condition:
            width = 3 * len(self.blocks) * place.hidden  # shift, scale and gate of each
            yield "modulation", None, of_sequences(place, width, self.condition)
        for block in self.blocks[self.mixers :]:
            streams = None if block.of_streams else self.streams
            if streams is not None:
                yield from streams.collapsed(place, block.branch)
            if self.input_norms and not block.normalises:
                yield self._norm(place, f"{block.branch}_norm")
            yield from self._norm_gate(place, block.branch)
            if self.condition:
                yield f"{block.branch}_shift_scale", None, modulated(place)
            yield from _prefixed(block, place)
            yield from _summed(place, block)
            if self.post_norms in (True, block.branch) and block.adds:
                shape = UNSCALED if self.unscaled_post_norm == block.branch else self.norm
                yield f"{block.branch}_post_norm", shape, place.norm(place.tokens, place.hidden, shape)
            if self.condition:
                yield f"{block.branch}_gate", None, modulated(place, gate=True)
            if streams is not None:
                yield from streams.spread(place, block.branch)
            elif block.adds:
                yield _added(place, block, self.residual_vectors)
            if self.stream_norms:
                yield self._norm(place, f"{block.branch}_stream_norm")

    def _parallel(self, place: Place, blocks: tuple[Block, ...], shared_norm: bool) -> Iterator[Part]:
        """The results of all blocks are summed on each device first: one collective (arXiv:2204.02311, 2)."""
        for block in blocks[:1] if shared_norm else blocks:
            yield self._norm(place, f"{block.branch}_norm")
        for block in blocks:
            yield from _prefixed(block, place)
        yield from _summed(place, blocks[-1])
        for block in blocks:
            yield _added(place, block)

    def _norm(self, place: Place, name: str) -> Part:
        return name, self.norm, place.norm(place.tokens, place.hidden, self.norm)

    def _norm_gate(self, place: Place, branch: str) -> Iterator[Part]:
        """A sigmoid of the normalised row, projected through a narrow rank, times the row."""
        if branch not in self.gated_norms:
            return
        name, rank = f"{branch}_norm_gate", self.norm_rank
        yield f"{name}_in", rank, place.linear(rank, place.hidden)
        yield f"{name}_act", rank, place.activation(rank, "silu", gated=False)
        yield f"{name}_out", rank, place.linear(place.hidden, rank)
        yield f"{name}_mul", None, place.activation(place.hidden, "sigmoid", gated=True)

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """Bytes of cache that one device holds for one sequence after `tokens` positions."""
        return sum(block.cache_bytes(tokens, setting) for block in self.blocks)

    def find(self, kind: type[B]) -> B:
        """The first block of a kind; a LookupError where the layer has none."""
        for block in self.blocks:
            if isinstance(block, kind):
                return block
        raise LookupError(f"no {kind.__name__} in {self}")


def in_formats(parts: Iterable[Part], formats: Formats) -> Iterator[Part]:
    """Parts with formats of their own where `formats` names them."""
    own = {name: {"weights": weights, "inputs": inputs} for name, weights, inputs in formats}
    for name, key, operator in parts:
        if name in own:
            yield name, (key, *own[name].values()), replace(operator, **own[name])  # type: ignore[type-var]
        else:
            yield name, key, operator


def _prefixed(block: Block, place: Place) -> Iterator[Part]:
    for name, key, operator in block.parts(place):
        yield f"{block.prefix or block.branch}.{name}", key, operator


def _summed(place: Place, block: Block) -> Iterator[Part]:
    if not block.replicated:
        yield from place.sum_over_devices(block.branch, place.hidden)


def _added(place: Place, block: Block, vectors: int = 0) -> Part:
    learned = vectors * place.hidden
    residual = Residual(place.tokens, place.hidden, place.setting.precision.wide, place.fused, learned)
    return f"{block.branch}_residual", vectors, residual
