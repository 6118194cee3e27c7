"""Another kind of attention in the layers, or a state in its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from workloads.blocks import (
    AttentionBlock,
    Block,
    ChannelMixBlock,
    EncoderAttentionBlock,
    KernelAttentionBlock,
    LinformerBlock,
    Mamba2Block,
    MlaBlock,
    MlpBlock,
    TimeMixBlock,
)
from workloads.layer import Layer
from workloads.operators.features import FEATURE_KINDS
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import blocks, with_blocks, with_layers
from workloads.techniques.conditions import no_heads


@dataclass(frozen=True)
class GroupedQuery(Technique):
    """Query heads share fewer key-value heads; one head shared by all is multi-query attention."""

    name = "grouped-query-attention"
    aliases = ("gqa",)
    variants = {"mqa": {"kv_heads": 1}, "multi-query-attention": {"kv_heads": 1}}
    category = "efficient structure"
    paper = "MQA arXiv:1911.02150; GQA arXiv:2305.13245"
    removes = "key-value heads: their projections, their cache, its reads"
    needs = "a model trained or up-trained with fewer heads (GQA: 5 % of pre-training)"
    quality = "retrained"
    slot = "the kind of attention"
    on_arrays = True
    example = "Llama-2-7B --hw h100"

    kv_heads: int = parameter(8, "key-value heads (GQA: 8; MQA: 1)", low=1, high=1024)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be more key-value heads, which can be shared evenly."""
        found = blocks(schedule, AttentionBlock)
        if not found:
            return "the model has no attention with key-value heads"
        if max(b.kv_heads for b in found) < self.kv_heads:
            return f"the model has {found[0].kv_heads} key-value heads, no more than {self.kv_heads}"
        if any(b.heads % self.kv_heads for b in found):
            return f"{found[0].heads} query heads cannot share {self.kv_heads} evenly"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """Everything else of the attention stays."""
        return with_blocks(
            schedule, AttentionBlock, lambda b: replace(b, kv_heads=min(b.kv_heads, self.kv_heads))
        )


@dataclass(frozen=True)
class LatentAttention(Technique):
    """Keys and values of all heads are expanded from one small latent, and only the latent is cached."""

    name = "multi-head-latent-attention"
    aliases = ("mla",)
    category = "efficient structure"
    paper = "DeepSeek-V2 arXiv:2405.04434"
    removes = "most of the KV cache and its reads"
    adds = "projections into and out of the latent; in decode, wider dot products"
    needs = "a model trained with it"
    quality = "retrained"
    slot = "the kind of attention"
    on_arrays = True
    refused_by = (no_heads,)

    latent: int = parameter(512, "elements of the key-value latent (DeepSeek-V2: 512)", low=1, high=65536)
    rope: int = parameter(64, "rotated elements of the shared key (DeepSeek-V2: 64)", low=0, high=1024)

    def apply(self, schedule: Schedule) -> Schedule:
        """As many heads, each as wide as before beside its rotated part; queries are projected directly."""

        def latent(b: AttentionBlock) -> MlaBlock:
            return MlaBlock(b.heads, None, self.latent, b.head_dim, self.rope, b.head_dim)

        return with_blocks(schedule, AttentionBlock, latent)


@dataclass(frozen=True)
class LinearAttention(Technique):
    """Features of queries and keys replace the softmax, so that sums of fixed size replace the cache."""

    name = "linear-attention"
    aliases = ("linear-transformer", "kernel-attention")
    variants = {
        "performer": {"function": "positive"},
        "rfa": {"function": "trigonometric"},
        "random-feature-attention": {"function": "trigonometric"},
    }
    category = "efficient structure"
    paper = "Linear Transformer arXiv:2006.16236; Performer arXiv:2009.14794; RFA arXiv:2103.02143"
    removes = "attention that grows with the context, and its cache"
    adds = (
        "the feature map; sums per sequence and head that every step reads and writes; a key per query head"
    )
    needs = "a model trained with it"
    quality = "retrained"
    slot = "the kind of attention"
    on_arrays = True
    refused_by = (no_heads,)

    function: str = parameter(
        "elu", "Linear Transformer: elu; Performer: positive; RFA: trigonometric", among=FEATURE_KINDS
    )
    features: int = parameter(256, "random features of a head; elu has none", low=2, high=65536)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """It replaces attention with key-value heads; sines and cosines come in pairs."""
        if self.function == "trigonometric" and self.features % 2:
            return f"{self.features} features are no pairs of a sine and a cosine"
        return super().refuse(schedule, target)

    def apply(self, schedule: Schedule) -> Schedule:
        """Every head has queries, keys and values of its own, without rotation or norms, as in the papers."""
        return with_blocks(schedule, AttentionBlock, self._of)

    def _of(self, old: AttentionBlock) -> KernelAttentionBlock:
        function = next(kind for kind in FEATURE_KINDS if kind == self.function)
        features = old.head_dim if function == "elu" else self.features
        return KernelAttentionBlock(old.heads, old.head_dim, features, function, old.qkv_bias, old.out_bias)


@dataclass(frozen=True)
class Linformer(Technique):
    """Keys and values are shortened along the sequence, so that attention is linear in its length."""

    name = "linformer"
    aliases = ("low-rank-attention",)
    category = "efficient structure"
    paper = "Linformer arXiv:2006.04768"
    removes = "scores of every pair of positions: each sees a fixed number of mixtures"
    adds = "two products along the sequence, and their matrices in every layer"
    needs = "a model trained with it"
    quality = "retrained"
    slot = "the kind of attention"
    on_arrays = True
    example = "BERT-base-uncased --hw h100 --prompt 512"

    rank: int = parameter(
        128,
        "mixtures that a position sees (section 5.1: 128 for 512 positions, 256 for 1024)",
        low=1,
        high=1_000_000,
    )
    sharing: str = parameter(
        "headwise",
        "matrices of a layer: one for keys and one for values, or one",
        among=("headwise", "key-value"),
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """A mixture holds later positions, which a decoder must not see."""
        found = blocks(schedule, EncoderAttentionBlock)
        if not found:
            return "mixtures of all positions need an encoder, and the model is none with full attention"
        if any(b.sparsity for b in found):
            return "the model's attention is sparse already"
        positions = schedule.main.model.max_position
        return (
            None if self.rank <= positions else f"the model has {positions} positions, fewer than {self.rank}"
        )

    def apply(self, schedule: Schedule) -> Schedule:
        """Projections and heads stay."""
        positions = schedule.main.model.max_position

        def shortened(b: EncoderAttentionBlock) -> LinformerBlock:
            out_bias = b.bias if b.out_bias is None else b.out_bias
            shared = self.sharing == "key-value"
            return LinformerBlock(b.heads, b.head_dim, self.rank, positions, shared, b.bias, out_bias)

        return with_blocks(schedule, EncoderAttentionBlock, shortened)


@dataclass(frozen=True)
class StateSpace(Technique):
    """State-space mixers with a state of fixed size take the place of attention, in all layers or in most."""

    name = "state-space"
    aliases = ("mamba-2", "mamba", "ssm")
    variants = {"hybrid": {"attention": 8}, "jamba": {"attention": 8}, "rwkv": {"mixer": "rwkv-4"}}
    category = "efficient structure"
    paper = "Mamba-2 arXiv:2405.21060; Jamba arXiv:2403.19887; RWKV arXiv:2305.13048"
    removes = "attention that grows with the context, and its cache"
    adds = "a state per sequence and layer that every step reads and writes"
    needs = "a model trained with it"
    quality = "retrained"
    slot = "the kind of attention"
    on_arrays = True
    refused_by = (no_heads,)

    mixer: str = parameter("mamba-2", "what takes its place", among=("mamba-2", "rwkv-4"))
    attention: int = parameter(
        0, "every so many layers one keeps its attention (Jamba: 8); 0: none", low=0, high=1000
    )
    state: int = parameter(
        128, "elements of the state per channel of Mamba-2 (the paper: 128)", low=1, high=4096
    )
    expand: int = parameter(
        2, "channels of Mamba-2 over the width of the model (the paper: 2)", low=1, high=16
    )

    def apply(self, schedule: Schedule) -> Schedule:
        """Mamba-2: heads of 64 channels, a convolution over 4 positions, chunks of 256. RWKV-4: as many
        channels as the model is wide, and a feed-forward block of its own of the same width.
        """
        hidden = schedule.main.model.hidden

        def layers(old: tuple[Layer, ...]) -> Iterator[Layer]:
            for index, layer in enumerate(old):
                kept = self.attention and index % self.attention == self.attention // 2
                yield layer if kept else self._mixed(layer, hidden)

        return with_layers(schedule, layers)

    def _mixed(self, layer: Layer, hidden: int) -> Layer:
        def block(old: Block) -> Block:
            if isinstance(old, AttentionBlock):
                return self._mixer(hidden)
            if isinstance(old, MlpBlock) and self.mixer == "rwkv-4":
                return ChannelMixBlock(hidden, old.width)
            return old

        return replace(layer, blocks=tuple(map(block, layer.blocks)))

    def _mixer(self, hidden: int) -> Block:
        if self.mixer == "rwkv-4":
            return TimeMixBlock(hidden, hidden)
        heads = max(1, self.expand * hidden // HEAD)
        return Mamba2Block(heads, HEAD, 1, self.state, kernel=4, chunk=256)


HEAD = 64  # channels of a head of Mamba-2 (arXiv:2405.21060)
