"""A model in a phase, as named operators with repeat counts.

The names are those of the NVTX ranges of a measured run, so that predicted and measured rows join.
One function serves prefill, decode and chunks: a step computes `q_len` new positions per sequence,
which attend to `kv_len` positions, themselves included. Sizes may be arrays over a grid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specfiles.errors import InputError
from workloads.convention import CONVENTIONS, Convention
from workloads.dtypes import Precision
from workloads.model import AttentionShape, Layer, MlpShape, Model, NormShape, heads_per_device
from workloads.operators import (
    Activation,
    AllReduce,
    Attention,
    Embedding,
    Gemm,
    KvAppend,
    Norm,
    Operator,
    Residual,
    Rope,
    Sampling,
)

if TYPE_CHECKING:
    from workloads.dtypes import Size


@dataclass(frozen=True)
class Step:
    """One forward pass: `batch` sequences, `q_len` new positions each, `kv_len` visible ones."""

    batch: Size
    q_len: Size
    kv_len: Size

    @property
    def tokens(self) -> Size:
        """New positions of all sequences."""
        return self.batch * self.q_len


def prefill(batch: Size, prompt: Size) -> Step:
    """The pass that reads a prompt and yields the first token."""
    return Step(batch, prompt, prompt)


def decode(batch: Size, context: Size) -> Step:
    """The pass that yields one more token; `context` includes the token it reads."""
    return Step(batch, 1, context)


@dataclass(frozen=True)
class Named:
    """An operator under its range name, executed `count` times per step."""

    name: str
    operator: Operator
    count: int


@dataclass(frozen=True)
class Setting:
    """How a model is run: formats, what is counted, and over how many devices its tensors are split."""

    precision: Precision = Precision()
    convention: Convention = CONVENTIONS["fused"]
    tensor_parallel: int = 1


def operators(model: Model, step: Step, setting: Setting = Setting()) -> list[Named]:
    """Every operator of one step in the order of first execution, on one of the devices."""
    rows: dict[tuple[str, object], Named] = {}
    for part in _Builder(model, step, setting).parts():
        key = (part.name, part.shape)
        before = rows[key].count if key in rows else 0
        rows[key] = Named(part.name, part.operator, before + part.count)
    return _distinct(list(rows.values()))


def parameters(model: Model) -> int:
    """Weight elements of the model: the sum of what its operators own."""
    return sum(row.count * row.operator.parameters() for row in operators(model, decode(1, 1)))


@dataclass(frozen=True)
class _Part:
    name: str
    shape: object  # what besides the name decides the operator: layers that agree on it share a row
    operator: Operator
    count: int


@dataclass(frozen=True)
class _Builder:
    model: Model
    step: Step
    setting: Setting

    def parts(self) -> Iterator[_Part]:
        model, step, precision = self.model, self.step, self.setting.precision
        table: dict[str, Any] = {
            "width": model.hidden,
            "weights": precision.weights,
            "outputs": precision.wide,
        }
        yield self._once("embedding", Embedding(step.tokens, model.vocabulary, **table))
        if model.learned_positions:
            yield self._once("position_embedding", Embedding(step.tokens, model.learned_positions, **table))
        for layer, count in Counter(model.layers).items():
            yield from self._layer(layer, count)
        rows = step.batch  # only the last position of each sequence is projected to the vocabulary
        # Model code normalises all positions before it picks the last; a fused kernel need not.
        normed = rows if self.setting.convention.elementwise_fused else step.tokens
        yield self._once("final_norm", self._norm(normed, model.hidden, model.norm))
        vocabulary = -(-model.vocabulary // self.setting.tensor_parallel)
        head = Gemm(
            rows,
            vocabulary,
            model.hidden,
            precision.activations,
            precision.weights,
            precision.wide,
            tied=model.tied,
        )
        yield self._once("lm_head", head)
        yield self._once("sampling", Sampling(rows, vocabulary, precision.wide))

    def _once(self, name: str, operator: Operator) -> _Part:
        return _Part(name, None, operator, 1)

    def _layer(self, layer: Layer, count: int) -> Iterator[_Part]:
        hidden, tokens = self.model.hidden, self.step.tokens

        def part(name: str, shape: object, operator: Operator) -> _Part:
            return _Part(f"layers.{name}", shape, operator, count)

        def after(block: str) -> Iterator[_Part]:
            """What follows each block: the sum over devices, a norm in some families, the residual."""
            if self.setting.tensor_parallel > 1:
                reduce = AllReduce(tokens, hidden, self.setting.tensor_parallel, self.setting.precision.wide)
                yield part(f"{block}_allreduce", None, reduce)
            if layer.post_norms:
                yield part(f"{block}_post_norm", layer.norm, self._norm(tokens, hidden, layer.norm))
            fused = self.setting.convention.elementwise_fused
            yield part(
                f"{block}_residual", None, Residual(tokens, hidden, self.setting.precision.wide, fused)
            )

        yield part("attention_norm", layer.norm, self._norm(tokens, hidden, layer.norm))
        for name, shape, operator in self._attention(layer.attention):
            yield part(f"attention.{name}", shape, operator)
        yield from after("attention")
        yield part("mlp_norm", layer.norm, self._norm(tokens, hidden, layer.norm))
        for name, shape, operator in self._mlp(layer.mlp):
            yield part(f"mlp.{name}", shape, operator)
        yield from after("mlp")

    def _attention(self, shape: AttentionShape) -> Iterator[tuple[str, object, Operator]]:
        step, precision, convention = self.step, self.setting.precision, self.setting.convention
        devices, fused = self.setting.tensor_parallel, convention.elementwise_fused
        heads, kv_heads = shape.heads // devices, heads_per_device(shape.kv_heads, devices)
        q_width, kv_width = heads * shape.head_dim, kv_heads * shape.head_dim
        if shape.fused_qkv:
            yield "qkv_proj", shape, self._linear(q_width + 2 * kv_width, self.model.hidden, shape.qkv_bias)
        else:
            for name, width in (("q_proj", q_width), ("k_proj", kv_width), ("v_proj", kv_width)):
                key = (width, shape.qkv_bias)
                yield name, key, self._linear(width, self.model.hidden, shape.qkv_bias)
        if shape.qk_norm:
            for name, n in (("q_norm", heads), ("k_norm", kv_heads)):
                yield name, (n, shape.head_dim), self._norm(step.tokens * n, shape.head_dim, NormShape())
        if shape.rotary_dim:
            rope = Rope(step.tokens, heads + kv_heads, shape.rotary_dim, precision.wide, fused)
            yield "rope", (heads, kv_heads, shape.rotary_dim), rope
        append = KvAppend(step.tokens, kv_heads, shape.head_dim, precision.wide, precision.kv, fused)
        yield "kv_append", (kv_heads, shape.head_dim), append
        core = Attention(
            step.batch,
            step.q_len,
            step.kv_len,
            heads,
            kv_heads,
            shape.head_dim,
            dtype=precision.wide,
            kv_dtype=precision.kv,
            window=shape.window,
            causal_exact=convention.causal_exact,
            fused=convention.scores_on_chip,
        )
        yield f"core.window{shape.window}" if shape.window else "core", shape, core
        yield "o_proj", (q_width, shape.out_bias), self._linear(self.model.hidden, q_width, shape.out_bias)

    def _mlp(self, shape: MlpShape) -> Iterator[tuple[str, object, Operator]]:
        precision, hidden = self.setting.precision, self.model.hidden
        width = shape.width // self.setting.tensor_parallel
        if shape.fused_gate_up:
            yield "gate_up_proj", shape, self._linear(2 * width, hidden, shape.bias)
        else:
            for name in ("gate_proj", "up_proj") if shape.gated else ("up_proj",):
                yield name, shape, self._linear(width, hidden, shape.bias)
        fused = self.setting.convention.elementwise_fused
        activation = Activation(self.step.tokens, width, precision.wide, shape.activation, shape.gated, fused)
        yield "act_mul", shape, activation
        yield "down_proj", shape, self._linear(hidden, width, shape.bias)

    def _linear(self, n: int, k: int, bias: bool) -> Gemm:
        p = self.setting.precision
        return Gemm(self.step.tokens, n, k, p.activations, p.weights, p.wide, bias=bias)

    def _norm(self, tokens: Size, width: int, shape: NormShape) -> Norm:
        p, fused = self.setting.precision, self.setting.convention.elementwise_fused
        return Norm(tokens, width, p.wide, p.wide, shape.center, bias=shape.bias, fused=fused)


def _distinct(rows: list[Named]) -> list[Named]:
    """Layers of different shapes may give one name to different operators: number the later ones."""
    seen: Counter[str] = Counter()
    named = []
    for row in rows:
        seen[row.name] += 1
        name = row.name if seen[row.name] == 1 else f"{row.name}.{seen[row.name]}"
        named.append(Named(name, row.operator, row.count))
    return named


def check_split(model: Model, devices: int) -> None:
    """Refuse a tensor-parallel degree that the model's shapes do not divide by."""
    for layer in set(model.layers):
        for what, size in (("attention heads", layer.attention.heads), ("MLP width", layer.mlp.width)):
            if size % devices:
                raise InputError(
                    f"{model.name} has {size} {what}, which {devices} devices do not divide; "
                    "choose another --tp."
                )
        kv_heads = layer.attention.kv_heads
        if kv_heads % devices and devices % kv_heads:  # neither shared out evenly nor copied evenly
            raise InputError(
                f"{model.name} has {kv_heads} KV heads, which {devices} devices can neither share nor copy "
                "evenly; choose another --tp."
            )
