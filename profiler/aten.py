"""Map a call of an aten operation to an operator, by the shapes of its tensors.

Products with a whole weight matrix become Gemm, gathers from a table Embedding; other operations are
counted by the bytes of their tensors and the FLOP of their class. Views cost nothing. Operations without a
class count as memory traffic and are listed in `unknown`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from profiler.aten_classes import FREE, MOVES, ONE_FLOP, OVERWRITES, PER_INPUT, PER_INPUT_FLOP, SPECIAL
from workloads.operators import Embedding, Gemm, Operator
from workloads.operators.traced import Traced

if TYPE_CHECKING:
    import torch

DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64", "float8_e4m3fn": "fp8"}


class Weights:
    """The parameters of a module by storage, and which of them operations have used."""

    def __init__(self, module: torch.nn.Module) -> None:
        tensors = [*module.parameters(), *module.buffers()]
        self.parameters = {_storage(p): p for p in module.parameters()}
        self.storages = {_storage(tensor) for tensor in tensors}
        self.met: set[int] = set()

    def whole(self, tensor: Any, elements: int) -> bool:
        """Whether a tensor is a whole parameter, seen through views only."""
        return _storage(tensor) in self.parameters and self.parameters[_storage(tensor)].numel() == elements

    def meet(self, tensors: list[Any]) -> tuple[int, float]:
        """Elements and bytes of those parameters among tensors that no earlier operation used."""
        new = {_storage(t) for t in tensors} & self.parameters.keys() - self.met
        self.met |= new
        found = [self.parameters[storage] for storage in new]
        return sum(p.numel() for p in found), float(sum(p.nbytes for p in found))

    def unused(self) -> tuple[int, float]:
        """Elements and bytes of parameters that no operation used."""
        return self.meet(list(self.parameters.values()))


class Counting:
    """Operators of calls, and calls without a class."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.unknown: Counter[str] = Counter()

    def operator(self, func: Any, args: Any, kwargs: Any, result: Any) -> Operator | None:
        """The operator of one call; None where it costs nothing."""
        name = str(func.overloadpacket).removeprefix("aten.")
        inputs, outputs = list(_tensors((args, kwargs))), list(_tensors(result))
        if name in FREE or not (inputs or outputs) or _is_view(func):
            return None
        exact = self._gemm(name, args) or self._gather(name, args, outputs)
        return exact or self._traced(func, name, args, kwargs, result, inputs, outputs)

    def _gemm(self, name: str, args: Any) -> Gemm | None:
        """A product with a whole weight, with the whole bias or none."""
        if name not in ("mm", "addmm"):
            return None
        bias, (a, b) = (args[0], args[1:3]) if name == "addmm" else (None, args[:2])
        (m, k), n = a.shape, b.shape[1]
        formats = [DTYPES.get(dtype_name(t)) for t in (a, b)]
        if None in formats or not self.weights.whole(b, n * k) or _storage(a) in self.weights.storages:
            return None
        met = _storage(b) in self.weights.met
        if bias is not None and (
            met or not self.weights.whole(bias, n) or _storage(bias) in self.weights.met
        ):
            return None
        self.weights.meet([b] if bias is None else [b, bias])
        inputs, weights = map(str, formats)
        return Gemm(m, n, k, inputs, weights, inputs, bias=bias is not None, tied=met)

    def _gather(self, name: str, args: Any, outputs: list[Any]) -> Embedding | None:
        if name != "embedding" or not self.weights.whole(args[0], args[0].numel()):
            return None
        table, stored = args[0], DTYPES.get(dtype_name(args[0]))
        if stored is None:
            return None
        met = _storage(table) in self.weights.met
        self.weights.meet([table])
        rows, width = table.shape
        return Embedding(args[1].numel(), rows, width, stored, stored, tied=met)

    def _traced(
        self, func: Any, name: str, args: Any, kwargs: Any, result: Any, inputs: list[Any], outputs: list[Any]
    ) -> Traced:
        from torch.utils.flop_counter import flop_registry

        sources = inputs[1:] if name in OVERWRITES else inputs
        held = [t for t in sources if _storage(t) in self.weights.storages]
        streamed = [t for t in sources if _storage(t) not in self.weights.storages]
        # A product over one element is an outer one: a multiplication for each result, and no sum.
        outer = name in ("mm", "bmm") and inputs[0].shape[-1] == 1
        count = None if outer else flop_registry.get(func.overloadpacket)
        matrix = count(*args, **kwargs, out_val=result) if count else 0
        vector, special = (0, 0) if count else self._elementwise("mul" if outer else name, inputs, outputs)
        owned, owned_bytes = self.weights.meet(inputs)
        floats = [f for t in (*inputs, *outputs) if (f := DTYPES.get(dtype_name(t)))]
        read, weights, written = (sum(map(_bytes, some)) for some in (streamed, held, outputs))
        if name in ("index", "index_select", "gather", "embedding"):  # only the rows that are picked are read
            read, weights = min(read, written + sum(map(_bytes, streamed[1:]))), min(weights, written)
        return Traced(
            name,
            read,
            weights,
            written,
            floats[0] if floats else "fp32",
            int(matrix),
            vector,
            special,
            sum(t.numel() for t in outputs),
            owned,
            owned_bytes,
        )

    def _elementwise(self, name: str, inputs: list[Any], outputs: list[Any]) -> tuple[int, int]:
        """FLOP and special operations by the operation's class."""
        results, first = sum(t.numel() for t in outputs), inputs[0].numel() if inputs else 0
        base = name if name in MOVES else name.removesuffix("_")
        if name in MOVES:
            return 0, 0
        if base in ONE_FLOP:
            return results, 0
        if base in SPECIAL:
            return 0, results
        if name in PER_INPUT:
            return first, 0
        if name in PER_INPUT_FLOP:
            flops, special = PER_INPUT_FLOP[name]
            return flops * first, special * first
        self.unknown[name] += 1
        return 0, 0


def _is_view(func: Any) -> bool:
    """Whether the result is a view of an input."""
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _tensors(values: Any) -> Iterator[Any]:
    import torch
    from torch.utils._pytree import tree_leaves

    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))


def _storage(tensor: Any) -> int:
    return int(tensor.untyped_storage()._cdata)


def dtype_name(tensor: Any) -> str:
    """torch's name of its format."""
    return str(tensor.dtype).removeprefix("torch.")


def _bytes(tensor: Any) -> int:
    """Bytes in memory: elements repeated by a stride of 0 count once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride else min(size, 1)
    return elements * int(tensor.element_size())
