"""What stands before the layers of an encoder of audio: frames of a spectrogram in, positions out."""

from __future__ import annotations

from collections.abc import Iterator

from specfiles.frozen import dataclass
from workloads.blocks.base import Block, Part, Place
from workloads.operators import SequenceConv

KERNEL = 3  # frames that each row of a convolution reads


@dataclass(frozen=True)
class FrameEmbedding(Block):
    """Two convolutions with activations, the second of every other frame (arXiv:2212.04356, section 2.2)."""

    channels: int  # of a frame: mel bins

    def parts(self, place: Place) -> Iterator[Part]:
        """Of two frames for each position."""
        p, width = place.setting.precision, place.hidden
        formats = p.activations, p.weights, p.wide
        for i, (channels, stride) in enumerate(((self.channels, 1), (width, 2)), start=1):
            rows = place.tokens * 2 // stride
            sizes = rows, width, KERNEL * channels
            conv = SequenceConv(*sizes, *formats, bias=True, kernel=KERNEL, stride=stride)
            yield f"conv{i}", None, conv
            yield f"conv{i}_act", None, place.activation(width, "gelu", gated=False, rows=rows)
