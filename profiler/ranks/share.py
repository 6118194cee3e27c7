"""Tensor parallelism: each process builds its share as a smaller model, and results are summed over all.

A rank's share of a Llama-like model (Megatron-LM, arXiv:1909.08053, section 3) is itself such a model, with
fewer heads, a narrower MLP and fewer columns of the head; its two products back to the hidden width are terms
of a sum. So no process builds weights of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specfiles.errors import InputError
from workloads.sharing import check_sharing
from workloads.step import Setting

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from workloads.model import Model

# Families with these fields and parts of layers, whose head width is a separate field.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma")
SUMMED = (("self_attn", "o_proj"), ("mlp", "down_proj"))  # products that give terms of a sum
SUM = "sum_over_ranks"  # the name of the sum beside such a product, as in profiler.parts


def check_share(model: Model, devices: int, batches: Iterable[int]) -> None:
    """InputError where this number of devices cannot share the model, or its family is not supported."""
    if devices == 1:
        return
    for batch in batches:
        check_sharing(model, Setting(tensor_parallel=devices), batch)
    if model.family not in FAMILIES:
        raise InputError(
            f"{model.name} is of family {model.family!r}; models that several processes share are of "
            f"{', '.join(FAMILIES)}; leave --tp out: each process then runs the whole model."
        )


def share(fields: Mapping[str, Any], devices: int) -> dict[str, Any]:
    """The config of one device's share; `fields` are those of the whole model's decoder."""
    heads = fields["num_attention_heads"]
    return {
        **fields,
        "head_dim": fields.get("head_dim") or fields["hidden_size"] // heads,
        "num_attention_heads": heads // devices,
        "num_key_value_heads": max(1, (fields.get("num_key_value_heads") or heads) // devices),
        "intermediate_size": fields["intermediate_size"] // devices,
    }


def sum_over_ranks(network: Any, model: Model, devices: int) -> None:
    """Sum a share's partial results over all ranks, and cut its head."""
    import torch
    import torch.distributed as dist

    class Sum(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """The sum of all ranks' tensors, in place of this rank's."""
            dist.all_reduce(x)
            return x

    def summed(total: torch.nn.Module) -> Any:
        return lambda _module, _inputs, output: total(output)

    for layer in network.model.layers:
        for parent, part in SUMMED:
            owner = getattr(layer, parent)
            product = getattr(owner, part)
            total = Sum()
            setattr(owner, SUM, total)
            product.register_forward_hook(summed(total))
    head = network.lm_head
    columns = -(-model.vocabulary // devices)
    begin = min(dist.get_rank() * columns, model.vocabulary - columns)  # the last may overlap its neighbour's
    rows = head.weight.detach()[begin : begin + columns].clone()
    cut = torch.nn.Linear(head.in_features, columns, bias=False, dtype=rows.dtype, device=rows.device)
    cut.weight = torch.nn.Parameter(rows, requires_grad=False)
    network.lm_head = cut
