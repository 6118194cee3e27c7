"""Tensor parallelism: each process builds its share as a smaller model, and results are summed over all.

A rank's share of a Llama-like model (Megatron-LM, arXiv:1909.08053, section 3) is itself such a model, with
fewer heads, a narrower MLP and fewer rows of the tables; its two products back to the hidden width, and what
it looks up, are terms of a sum. So no process builds weights of another.
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
MET = "met"  # the name of the collective beside such a product or a table, as in profiler.parts


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


def meet_other_ranks(network: Any, model: Model, devices: int) -> None:
    """Sum a share's partial results over all ranks, cut its tables, and gather what it scores."""
    import torch
    import torch.distributed as dist

    class Sum(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """The sum of all ranks' tensors, in place of this rank's."""
            dist.all_reduce(x)
            return x

    class Gather(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """The columns of all ranks beside each other."""
            every = x.new_empty((devices * x.shape[0], *x.shape[1:]))
            dist.all_gather_into_tensor(every, x.contiguous())
            columns = every.unflatten(0, (devices, -1)).movedim(0, -2).flatten(-2)
            return columns[..., : model.vocabulary]

    def beside(module: torch.nn.Module, owner: torch.nn.Module, meet: torch.nn.Module) -> None:
        setattr(owner, MET, meet)
        module.register_forward_hook(lambda _module, _inputs, output: meet(output))

    for layer in network.model.layers:
        for parent, part in SUMMED:
            owner = getattr(layer, parent)
            beside(getattr(owner, part), owner, Sum())
    columns = -(-model.vocabulary // devices)
    begin = dist.get_rank() * columns
    own = slice(begin, begin + columns)

    def cut(weight: torch.Tensor, rows: int) -> torch.nn.Parameter:
        """This rank's rows, and zeros up to `rows`."""
        found = weight.new_zeros(rows, weight.shape[1])
        held = weight.detach()[own]
        found[: len(held)] = held
        return torch.nn.Parameter(found, requires_grad=False)

    def local(_module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        """The rows of tokens here; those of other ranks are the last, of zeros."""
        rows = inputs[0] - begin
        return torch.where((rows >= 0) & (rows < columns), rows, columns)

    table, head = network.model.embed_tokens, network.lm_head
    head.weight, table.weight = cut(head.weight, columns), cut(table.weight, columns + 1)
    head.out_features, table.num_embeddings, table.padding_idx = columns, columns + 1, None
    table.register_forward_pre_hook(local)
    beside(table, network.model, Sum())
    beside(head, network, Gather())
