"""Parallelism: what may be sharded over devices, and which layers a pipeline stage holds.

`tensor_parallel` devices share each layer. `expert_parallel` devices hold whole experts each. If these are as
many or fewer, they are the same devices: each has all tokens, and the layer's collective sums the results. If
they are more, each runs attention for its own part of the batch and sends tokens to the devices that hold
their experts (DeepSeek-V3, arXiv:2412.19437, section 3.4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from specfiles.errors import InputError
from workloads.blocks import Block, Head
from workloads.model import Model, Stack
from workloads.step import Setting


def check_sharing(model: Model, setting: Setting, batch: int) -> None:
    """Raise InputError where a size of the model or the batch is not divisible by the parallelism."""
    for complaint in _complaints(model, setting, batch):
        raise InputError(f"{complaint}.")


def has_experts(model: Model) -> bool:
    """Whether a layer has parts that devices can share out whole."""
    return any(block.spreads for block in _blocks(model))


def _blocks(model: Model) -> dict[Block, None]:
    """The different blocks of a model, in order."""
    return dict.fromkeys(
        block for stack in model.stacks for layer in stack.distinct for block in layer.blocks
    )


def _complaints(model: Model, setting: Setting, batch: int) -> Iterator[str]:
    tensor, spread, stages = setting.tensor_parallel, setting.expert_parallel, setting.pipeline_parallel
    blocks = _blocks(model)
    for block in blocks if tensor > 1 else ():
        for complaint in block.unsplit(tensor):
            yield f"{model.name} {complaint}; choose another --tp"
    sparse = [block for block in blocks if block.spreads]
    if spread > 1 and not sparse:
        yield f"{model.name} has no experts to spread over --ep {spread} devices"
    if (tensor % spread and spread % tensor) or (tensor > 1 and spread > tensor):
        yield (
            f"--ep {spread} does not fit --tp {tensor}; choose an --ep that divides --tp, or --tp 1 with "
            "the attention of each device on its own part of the batch"
        )
    for block in sparse:
        for complaint in block.unspread(setting):
            yield f"{model.name} {complaint}; choose another --ep or --tp"
    if batch % setting.replicas:
        yield (
            f"batch {batch} is not divisible by {setting.replicas}, the devices of --ep {spread} that each "
            f"run the attention for a part of it; choose a --batch that is a multiple of {setting.replicas}"
        )
    if stages > 1 and len(model.stacks) > 1:
        yield f"{model.name} has {len(model.stacks)} stacks of layers; --pp is known for one"
    if stages > max(1, len(model.layers)):
        yield f"{model.name} has {len(model.layers)} layers, which --pp {stages} stages cannot share"


def beside(model: Model, setting: Setting) -> Setting:
    """The setting of a second model on the same devices: sharded, or replicated where it does not divide."""
    tensor = setting.tensor_parallel
    if tensor > 1 and any(True for block in _blocks(model) for _ in block.unsplit(tensor)):
        return replace(setting, tensor_parallel=1, expert_parallel=1)
    return setting


def stages(model: Model, setting: Setting) -> list[Model]:
    """The pipeline stages of a model, with as equal numbers of layers as possible.

    The first has the embeddings, the last the head; a table that both use is in both.
    """
    count = min(setting.pipeline_parallel, len(model.layers))
    if count <= 1:
        return [model]
    cuts = [len(model.layers) * i // count for i in range(count + 1)]
    return [replace(model, stack=_stage(model.stack, *ends)) for ends in pairwise(cuts)]


def _stage(stack: Stack, first: int, last: int) -> Stack:
    whole = len(stack.layers)
    return replace(
        stack,
        layers=stack.layers[first:last],
        inputs=stack.inputs if first == 0 else (),
        outputs=_untied(stack) if last == whole else (),
    )


def _untied(stack: Stack) -> tuple[Block, ...]:
    return tuple(replace(b, tied=False) if isinstance(b, Head) else b for b in stack.outputs)
