"""What stands before and after a decoder's layers: tables of embeddings, the last norm, the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator

from specfiles.frozen import dataclass
from workloads.blocks.base import RMS_NORM, Block, NormShape, Part, Place
from workloads.operators import AllGather, Embedding, Gemm, Sampling


@dataclass(frozen=True)
class TokenTable(Block):
    """The embedding of tokens."""

    vocabulary: int
    tied: bool = False  # the table is another stack's

    def parts(self, place: Place) -> Iterator[Part]:
        """One row per token; devices hold a part of the rows each, and zeros for others, which are summed."""
        yield "embedding", None, _gather(place, place.share_of(self.vocabulary), self.tied)
        yield from place.sum_over_devices("embedding", place.hidden)


@dataclass(frozen=True)
class PositionTable(Block):
    """Learned or sinusoidal positions, added to the embedding of tokens."""

    rows: int
    learned: bool = True  # otherwise computed once, and no parameters

    def parts(self, place: Place) -> Iterator[Part]:
        """One row per token."""
        yield "position_embedding", None, _gather(place, self.rows, not self.learned)


def _gather(place: Place, rows: int, tied: bool = False) -> Embedding:
    p = place.setting.precision
    return Embedding(place.tokens, rows, place.hidden, weights=p.tables, outputs=p.wide, tied=tied)


@dataclass(frozen=True)
class TypeTable(Block):
    """The segment of each token, added to its embedding."""

    rows: int

    def parts(self, place: Place) -> Iterator[Part]:
        """One row per token."""
        yield "type_embedding", None, _gather(place, self.rows)


@dataclass(frozen=True)
class EmbeddingNorm(Block):
    """The norm before the first layer."""

    shape: NormShape = RMS_NORM

    def parts(self, place: Place) -> Iterator[Part]:
        """All positions."""
        yield "embedding_norm", None, place.norm(place.tokens, place.hidden, self.shape)


@dataclass(frozen=True)
class FinalNorm(Block):
    """The norm behind the last layer."""

    shape: NormShape = RMS_NORM

    def parts(self, place: Place) -> Iterator[Part]:
        """One kernel."""
        yield "final_norm", None, place.norm(place.behind_layers, place.hidden, self.shape)


@dataclass(frozen=True)
class Head(Block):
    """The projection of each sequence's last positions to the vocabulary, and the choice of tokens."""

    vocabulary: int
    tied: bool = False  # its matrix is the embedding's
    bias: bool = False

    def parts(self, place: Place) -> Iterator[Part]:
        """Split by columns, rounded up; each device gets all scores and chooses (vLLM, LogitsProcessor)."""
        rows, columns, devices = place.scored, place.share_of(self.vocabulary), place.setting.tensor_parallel
        p, sizes = place.setting.precision, (rows, columns, place.hidden)
        yield "lm_head", None, Gemm(*sizes, p.wide, p.tables, p.wide, bias=self.bias, tied=self.tied)
        if devices > 1:
            yield "logits_allgather", None, AllGather(rows, columns * devices, devices, p.wide)
        yield "sampling", None, Sampling(rows, self.vocabulary, p.wide)


@dataclass(frozen=True)
class Pooler(Block):
    """The first position of each sequence through a layer of its own (arXiv:1810.04805)."""

    def parts(self, place: Place) -> Iterator[Part]:
        """A product and a tanh."""
        rows, width = place.step.batch, place.hidden
        yield "pooler", None, place.linear(width, width, bias=True, rows=rows)
        yield "pooler_act", None, place.activation(width, "tanh", gated=False, rows=rows)
