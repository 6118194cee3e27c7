"""The implementation of attention: a fused PyTorch kernel, an installed package, or separate kernels."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from profiler.subject import attends, why_separate
from profiler.wrapping import replaced
from specfiles.errors import InputError, choose

if TYPE_CHECKING:
    from profiler.subject import Subject
    from workloads.model import Model

AUTO, SEPARATE = "auto", "eager"
# PyTorch's own, by torch.nn.attention.SDPBackend; CPUs have the first two.
BACKENDS = {
    "flash": "FLASH_ATTENTION",
    "math": "MATH",
    "efficient": "EFFICIENT_ATTENTION",
    "cudnn": "CUDNN_ATTENTION",
}
ON_CPU = (AUTO, SEPARATE, "flash", "math")
PACKAGES = {  # name in transformers, and the installed module
    "flash-attention-2": ("flash_attention_2", "flash_attn"),
    "flash-attention-3": ("flash_attention_3", "flash_attn_interface"),
}
CHOICES = (AUTO, *BACKENDS, *PACKAGES, SEPARATE)
IN_MEMORY = ("math", SEPARATE)  # scores are written to memory and read back
OPERATION = re.compile(r"^aten::_scaled_dot_product_(?:(\w+)_attention(?:_for_cpu)?|attention_(math)\w*)$")
REFUSED = re.compile("No available kernel|No viable backend")  # torch's messages, by device
PACKAGED = re.compile(r"flash_attn")


def check_attention(name: str, model: Model, device: str) -> None:
    """InputError where an implementation is unknown, not installed or cannot compute a model's scores."""
    if name not in CHOICES:
        raise choose(name, list(CHOICES), "attention")
    if name not in ON_CPU and not device.startswith("cuda"):
        raise InputError(f"attention by {name} runs on CUDA; on {device} there are {', '.join(ON_CPU)}.")
    if name in PACKAGES and importlib.util.find_spec(PACKAGES[name][1]) is None:
        raise InputError(f"--attention {name} needs the module {PACKAGES[name][1]}, which is not installed.")
    if name != AUTO and not attends(model):
        raise InputError(f"{model.name} has no attention; leave --attention out.")
    if (why := why_separate(model)) and name not in (AUTO, SEPARATE):
        raise InputError(f"{model.name} {why}; leave --attention out.")


def set_attention(subject: Subject, name: str) -> None:
    """Select the implementation of attention of a loaded model."""
    if name in PACKAGES:
        subject.network.set_attn_implementation(PACKAGES[name][0])
    elif name == SEPARATE:
        subject.network.set_attn_implementation(SEPARATE)


@contextmanager
def attending(name: str) -> Iterator[None]:
    """Use PyTorch's fused attention of that name in the block. InputError where it rejects the tensors."""
    if name not in BACKENDS:
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    try:
        with sdpa_kernel(getattr(SDPBackend, BACKENDS[name])):
            yield
    except RuntimeError as error:
        if not REFUSED.search(str(error)):
            raise
        raise InputError(
            f"PyTorch's {name} attention does not take these sizes or this format here; "
            "choose another with --attention."
        ) from None


# Functions of transformers' masks, and their answers in captured and compiled steps; versions have some.
UNPADDED = {"is_tracing": False, "fast_all": True}


def _answering(answer: bool) -> Callable[[Any], Callable[..., bool]]:
    return lambda _: lambda *_: answer


@contextmanager
def masked_as_launched() -> Iterator[None]:
    """In the block, a captured or compiled step has the same masks as an eager one.

    Some versions of transformers add masks wherever a graph may run at other lengths, which steps here never
    do; with a mask PyTorch uses another kernel, over keys and values copied to every query head. BART makes a
    mask of ones and waits for the device to find that it hides nothing, which a capture cannot.
    """
    from transformers import masking_utils

    with ExitStack() as stack:
        for name, answer in UNPADDED.items():
            if hasattr(masking_utils, name):
                stack.enter_context(replaced(masking_utils, name, _answering(answer)))
        yield


def attended(events: Iterable[Any]) -> set[str]:
    """The implementations of attention in a traced step, by the operations called."""
    found = set()
    for event in events:
        if operation := OPERATION.match(event.name):
            found.add(operation.group(1) or operation.group(2))
        elif PACKAGED.search(event.name):
            found.add("flash_attn")
    return found
