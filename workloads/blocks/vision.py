"""What stands before and after the layers of a vision tower: patches in, prompt tokens out."""

from __future__ import annotations

from collections.abc import Iterator

from specfiles.frozen import dataclass
from workloads.blocks.base import Block, NormShape, Part, Place
from workloads.operators import Embedding


@dataclass(frozen=True)
class PatchEmbedding(Block):
    """A convolution whose stride is its kernel: a product with each patch (arXiv:2010.11929)."""

    elements: int  # of a patch: channels x frames x height x width
    bias: bool = True
    others: int = 0  # positions of an image that are no patch

    def parts(self, place: Place) -> Iterator[Part]:
        """One row per patch."""
        rows = place.step.batch * (place.step.q_len - self.others)
        yield "patch_embed", None, place.linear(place.hidden, self.elements, self.bias, rows)


@dataclass(frozen=True)
class ClassToken(Block):
    """One learned row that stands among the patches of each image."""

    def parts(self, place: Place) -> Iterator[Part]:
        """The row, once per image."""
        p = place.setting.precision
        row = Embedding(place.step.batch, 1, place.hidden, weights=p.tables, outputs=p.wide)
        yield "class_embedding", None, row


@dataclass(frozen=True)
class PatchMerger(Block):
    """Norms of patches, then `merged` neighbours as one row through matrices to the decoder's width."""

    merged: int
    widths: tuple[int, ...]  # of the matrices' results
    norm: NormShape
    norms: int = 1
    activated: int = 1  # matrices that a GELU follows
    bias: bool = True

    def parts(self, place: Place) -> Iterator[Part]:
        """In the order of execution; positions that fill no group of neighbours are left behind."""
        rows = place.step.batch * (place.step.q_len // self.merged)
        for _ in range(self.norms):
            yield "merger.norm", None, place.norm(place.tokens, place.hidden, self.norm)
        inputs = (place.hidden * self.merged, *self.widths)
        for i, (k, n) in enumerate(zip(inputs, self.widths, strict=False), start=1):
            yield f"merger.linear_fc{i}", None, place.linear(n, k, self.bias, rows)
            if i <= self.activated:
                yield "merger.act", n, place.activation(n, "gelu", gated=False, rows=rows)
