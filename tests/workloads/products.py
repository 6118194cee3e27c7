"""Matrix products that a PyTorch model dispatches: with its weights, of activations, inside its scans."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from workloads.config import Config
from workloads.convention import convention
from workloads.families import build
from workloads.model import Model
from workloads.phases import Setting, Step, operators

COUNTER = Setting(convention=convention("flop-counter"))
CORES = ("attention", "sparse_attention")
GEMMS = ("gemm", "grouped_gemm", "sequence_conv")


SCANS = (  # functions of transformers that are the recurrence of a mixer
    "mamba_selective_scan",
    "mamba_selective_state_update",
    "mamba2_chunk_scan",
    "mamba2_selective_state_update",
    "torch_chunk_gated_delta_rule",
    "torch_recurrent_gated_delta_rule",
    "chunk_kimi_delta_attention",
    "recurrent_kimi_delta_attention",
    "rwkv_linear_attention",
)


@dataclass
class Products:
    """FLOP of products by what they multiply."""

    weights: int = 0  # whole weights, or those of one expert
    activations: int = 0  # activations alone
    scans: int = 0  # the same inside a recurrence, whose form is the reference's own


def products(network: Any, **inputs: Any) -> Products:
    """Those of one forward pass, 2 FLOP per multiply-add, as torch's flop formulas have it.

    A weight is known by its storage, so that a view of it (its transpose, one expert of many) is one too.
    Depthwise convolutions are left out: they are no products, and run on the vector units.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    found, scanning = Products(), list[str]()

    class Counting(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            count = flop_registry.get(func._overloadpacket)
            depthwise = func._overloadpacket is torch.ops.aten.convolution and args[1].shape[1] == 1 < args[8]
            if count is not None and not depthwise:
                flops = int(count(*args, **(kwargs or {}), out_val=result))
                tensors = [a for a in args if isinstance(a, torch.Tensor)]
                if any(a.untyped_storage()._cdata in weights for a in tensors):
                    found.weights += flops
                elif scanning:
                    found.scans += flops
                else:
                    found.activations += flops
            return result

    with torch.no_grad(), _announced(network, scanning), Counting():
        network(**inputs)
    return found


@contextmanager
def _announced(network: Any, scanning: list[str]) -> Iterator[None]:
    """While a scan of the network's module runs, its name stands in `scanning`."""
    module = sys.modules[type(getattr(network, "model", network)).__module__]
    originals = {name: getattr(module, name) for name in SCANS if hasattr(module, name)}

    def heard(name: str) -> Any:
        def scan(*args: Any, **kwargs: Any) -> Any:
            scanning.append(name)
            try:
                return originals[name](*args, **kwargs)
            finally:
                scanning.pop()

        return scan

    for name in originals:
        setattr(module, name, heard(name))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(module, name, function)


def ours(family: str, fields: dict[str, Any]) -> Model:
    """Our model of a config with these fields."""
    return build(Config({"model_type": family, **fields}, "test"), "test")


def counted(model: Any, step: Step, setting: Setting = COUNTER) -> Products:
    """Ours of the same step; what a recurrence multiplies depends on its form and is not among them."""
    rows = operators(model, step, setting)
    work = [(row.operator.kind, int(row.count * row.operator.work().matrix_flops)) for row in rows]
    cores = sum(flops for kind, flops in work if kind in CORES)
    return Products(sum(flops for kind, flops in work if kind in GEMMS), cores)
