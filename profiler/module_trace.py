"""Any torch.nn.Module as a model: one pass on the meta device, each aten operation mapped to an operator.

Meta tensors have shapes only: no weights are allocated and nothing is computed.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.aten import DTYPES, Counting, Weights, dtype_name
from profiler.module_hearing import Run, hearing, plainly
from profiler.module_source import Built, attempt, built
from specfiles.errors import InputError
from workloads.model import Model
from workloads.operators import Attention, Operator
from workloads.operators.traced import Traced
from workloads.traced_model import Call, traced_model

if TYPE_CHECKING:
    import torch

ATTENTION = "scaled_dot_product_attention"


@dataclass(frozen=True)
class TracePass:
    """A traced model, the prevailing format of its matrix products, and notes."""

    model: Model
    dtype: str
    notes: tuple[str, ...]
    calls: tuple[Call, ...]  # operations in order; the model also has unused parameters


def trace(target: str, causal_exact: bool = True) -> TracePass:
    """Trace `module:function` of the current directory; the function returns (module, inputs).

    Raises InputError where nothing can be imported, built (`module_source.built`) or run without data.
    """
    source = built(target, "meta")
    recorder = Recorder(source.module, causal_exact)
    with attempt(target, "running it on the meta device"):
        recorder.run(source, "meta")
    rows, unused = recorder.rows, recorder.counting.weights.unused()
    if not rows:
        raise InputError(
            f"{target}: its module runs no operation on its inputs; there is nothing to predict."
        )
    notes = ["one pass of the inputs given; tokens per second are passes per second"]
    if recorder.counting.unknown:
        listed = ", ".join(f"{name} (x{n})" for name, n in sorted(recorder.counting.unknown.items()))
        notes.append(f"counted as memory traffic alone, because their FLOP are not known: {listed}")
    if recorder.autocast:
        notes.append(
            "the module runs under torch.autocast, which the trace does not see: operators are predicted "
            "in the formats of its weights and inputs; to predict others, cast these"
        )
    if unused[0]:
        rows.append(("unused_parameters", Traced("none", 0, 0, 0, owned=unused[0], owned_bytes=unused[1])))
        notes.append(f"{unused[0]} parameters are in memory and not used by this pass")
    return TracePass(traced_model(target, rows), _common(rows), tuple(notes), tuple(recorder.rows))


def _common(rows: list[Call]) -> str:
    """The format with the most FLOP of matrix products."""
    flops: dict[str, float] = {}
    for _, operator in rows:
        work = operator.work()
        flops[str(work.dtype)] = flops.get(str(work.dtype), 0.0) + float(work.matrix_flops)
    return max(flops, key=flops.__getitem__, default="fp32")


class Heard(NamedTuple):
    """An intercepted operation, and its operators: none, one, or two in one kernel."""

    function: Any
    rows: tuple[Call, ...]


class Recorder:
    """Counts the operations of a module's pass."""

    def __init__(self, module: torch.nn.Module, causal_exact: bool) -> None:
        self.counting, self.causal_exact = Counting(Weights(module)), causal_exact
        self.names = {id(part): _collapsed(name) for name, part in module.named_modules()}
        self.path: list[str] = [""]
        self.heard: list[Heard] = []
        self.autocast = False  # whether any module ran under torch.autocast

    @property
    def rows(self) -> list[Call]:
        """The operators in order."""
        return [row for heard in self.heard for row in heard.rows]

    def run(self, source: Built, device: str) -> None:
        """One pass."""
        from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

        with ExitStack() as stack:
            stack.callback(register_module_forward_pre_hook(self._enter).remove)
            stack.callback(register_module_forward_hook(self._leave, always_call=True).remove)
            stack.enter_context(plainly(device))
            stack.enter_context(hearing(self))
            source()

    def _enter(self, module: Any, _: Any) -> None:
        import torch

        self.autocast |= any(map(torch.is_autocast_enabled, ("cpu", "cuda")))
        self.path.append(self.names.get(id(module), self.path[-1]))

    def _leave(self, *_: Any) -> None:
        self.path.pop()

    def _named(self, name: str, operator: Operator) -> Call:
        """A row under the module that is running."""
        return (f"{self.path[-1]}.{name}" if self.path[-1] else name), operator

    def operation(self, run: Run, func: Any, args: Any, kwargs: Any) -> Any:
        """Count an operation by its class."""
        result = run()
        operator = self.counting.operator(func, args, kwargs, result)
        name = str(func.overloadpacket).removeprefix("aten.")
        self.heard.append(Heard(func, (self._named(name, operator),) if operator is not None else ()))
        return result

    def attention(self, run: Run, query: Any, key: Any, value: Any, mask: Any, causal: bool) -> Any:
        """Count a fused attention; with a mask, the mask is read and all pairs are counted."""
        rows = [self._named(ATTENTION, self._attention(query, key, value, causal))]
        if mask is not None:
            rows.append(self._named("attention_mask", Traced("attention_mask", mask.nbytes, 0, 0)))
        self.heard.append(Heard(ATTENTION, tuple(rows)))
        return run()

    def _attention(self, query: Any, key: Any, value: Any, causal: bool) -> Attention:
        batch = query.shape[:-3].numel() if query.dim() > 3 else 1
        heads, kv_heads = (t.shape[-3] if t.dim() > 2 else 1 for t in (query, key))
        q_len, kv_len, dtype = query.shape[-2], key.shape[-2], DTYPES.get(dtype_name(query), "fp32")
        if causal:  # torch's mask is aligned to the first key: no query sees keys beyond q_len
            kv_len = min(kv_len, q_len)
        sizes = batch, q_len, kv_len, heads, kv_heads, query.shape[-1]
        return Attention(
            *sizes,
            dtype,
            dtype,
            causal=causal,
            causal_exact=self.causal_exact,
            value_dim=value.shape[-1],
            cached=False,
        )


def _collapsed(path: str) -> str:
    """A module's path without layer numbers: identical layers share a row."""
    return ".".join(part for part in path.split(".") if not part.isdigit())
