"""What a decoder is made of: the shapes that a config fixes, whatever its family calls them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionShape:
    """One attention block: heads, what its projections carry, and how far it sees."""

    heads: int
    kv_heads: int
    head_dim: int
    rotary_dim: int = 0  # rotated elements of each head; 0 where positions enter otherwise
    window: int | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False  # a norm of each query and key head
    fused_qkv: bool = False  # one matrix in the checkpoint


@dataclass(frozen=True)
class MlpShape:
    """One feed-forward block."""

    width: int
    activation: str
    gated: bool = True  # three matrices: act(gate(x)) * up(x), then down
    bias: bool = False
    fused_gate_up: bool = False


@dataclass(frozen=True)
class NormShape:
    """How activations are normalised."""

    center: bool = False  # LayerNorm; otherwise RMSNorm
    bias: bool = False


@dataclass(frozen=True)
class Layer:
    """One decoder layer."""

    attention: AttentionShape
    mlp: MlpShape
    norm: NormShape = NormShape()
    post_norms: bool = False  # each block's result is normalised too, before the residual (Gemma 2)


@dataclass(frozen=True)
class Model:
    """A dense decoder-only model."""

    name: str
    family: str
    hidden: int
    vocabulary: int
    layers: tuple[Layer, ...]
    max_position: int
    tied: bool  # the vocabulary projection is the embedding's matrix
    norm: NormShape = NormShape()
    learned_positions: int = 0  # rows of a position table

    def kv_bytes(self, batch: int, tokens: int, bytes_per_element: float, tensor_parallel: int = 1) -> float:
        """Bytes of keys and values cached for `tokens` positions; a window keeps only its own."""
        elements = sum(
            2 * kept * heads_per_device(layer.attention.kv_heads, tensor_parallel) * layer.attention.head_dim
            for layer in self.layers
            for kept in [min(tokens, layer.attention.window or tokens)]
        )
        return batch * elements * bytes_per_element


def heads_per_device(heads: int, devices: int) -> int:
    """KV heads that one of `devices` holds; where there are fewer heads than devices they are copied."""
    return max(1, heads // devices)
