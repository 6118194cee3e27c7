"""How a model is shared by devices: what may be split, and which layers a stage of a pipeline holds.

`tensor_parallel` devices share each layer. `expert_parallel` devices share out whole experts: the same
devices where there are as many or fewer (each has all tokens, and their sums meet in the layer's
collective); more where each runs the attention for its own part of the batch, and sends tokens to the
devices that hold their experts (DeepSeek-V3, arXiv:2412.19437, section 3.4).
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
    """Refuse a setting that the model's shapes or the batch do not divide by; the sentence says which."""
    for complaint in _complaints(model, setting, batch):
        raise InputError(f"{complaint}.")


def _complaints(model: Model, setting: Setting, batch: int) -> Iterator[str]:
    tensor, spread, stages = setting.tensor_parallel, setting.expert_parallel, setting.pipeline_parallel
    blocks = dict.fromkeys(
        block for stack in model.stacks for layer in stack.distinct for block in layer.blocks
    )
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
            "run the attention for a part of it"
        )
    if stages > 1 and len(model.stacks) > 1:
        yield f"{model.name} has {len(model.stacks)} stacks of layers; --pp is known for one"
    if stages > max(1, len(model.layers)):
        yield f"{model.name} has {len(model.layers)} layers, which --pp {stages} stages cannot share"


def beside(model: Model, setting: Setting) -> Setting:
    """The setting of a second model on the same devices: whole on each where they cannot share it."""
    tensor = setting.tensor_parallel
    blocks = {block for stack in model.stacks for layer in stack.distinct for block in layer.blocks}
    if tensor > 1 and any(True for block in blocks for _ in block.unsplit(tensor)):
        return replace(setting, tensor_parallel=1, expert_parallel=1)
    return setting


def stages(model: Model, setting: Setting) -> list[Model]:
    """The model cut into stages of as equal numbers of layers as there are.

    The first has the embeddings, the last the head; where they share a table each holds it.
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
