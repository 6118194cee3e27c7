"""What stands before and after the layers of a vision tower: patches in, prompt tokens out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from workloads.blocks.base import Block, NormShape, Part, Place
from workloads.operators import Activation, Gemm


@dataclass(frozen=True)
class PatchEmbedding(Block):
    """A convolution whose stride is its kernel: a product with each patch (arXiv:2010.11929)."""

    elements: int  # of a patch: channels x frames x height x width

    def parts(self, place: Place) -> Iterator[Part]:
        """One row per patch."""
        yield "patch_embed", None, place.linear(place.hidden, self.elements, bias=True)


@dataclass(frozen=True)
class PatchMerger(Block):
    """A norm of patches, then `merged` neighbours as one row through an MLP to the decoder's width."""

    merged: int
    outputs: int
    norm: NormShape

    def parts(self, place: Place) -> Iterator[Part]:
        """In the order of execution."""
        rows, width = place.tokens // self.merged, place.hidden * self.merged
        p = place.setting.precision
        yield "merger.norm", None, place.norm(place.tokens, place.hidden, self.norm)
        for name, n in (("linear_fc1", width), ("linear_fc2", self.outputs)):
            yield f"merger.{name}", None, Gemm(rows, n, width, p.activations, p.weights, p.wide, bias=True)
            if name == "linear_fc1":
                yield "merger.act", None, Activation(rows, width, p.wide, "gelu", False, place.fused)
