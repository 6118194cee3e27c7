"""Number formats: how many bytes an element takes in memory, and which peak computes with it.

A dtype is given by name or, where a whole grid is evaluated at once, as an array of codes (indices
into `NAMES`), so that one call covers many formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from specfiles.errors import choose
from specfiles.frozen import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

Size = Any  # int, float, or a NumPy array of either over a grid
DtypeLike: TypeAlias = "str | NDArray[np.integer[Any]]"

# name -> (bits per element with its share of block scales, the dtype whose peak computes it)
FORMATS: dict[str, tuple[float, str]] = {
    "fp64": (64, "fp64"),
    "fp32": (32, "fp32"),
    "tf32": (32, "tf32"),  # stored as fp32, multiplied with 10 bits of mantissa
    "bf16": (16, "bf16"),
    "fp16": (16, "fp16"),
    "fp8": (8, "fp8"),
    "int8": (8, "int8"),
    "fp6": (6, "fp6"),
    "int4": (4, "int4"),
    "fp4": (4, "fp4"),
    "mxfp8": (8.25, "fp8"),  # one 8-bit scale per 32 elements (OCP Microscaling Formats 1.0, table 1)
    "mxfp4": (4.25, "fp4"),  # the same
    # One fp8 scale per 16 elements (NVIDIA Transformer Engine, NVFP4), of keys and values, too (vLLM,
    # nvfp4_kv_cache_full_dim; SGLang, MHATokenToKVPoolFP4).
    "nvfp4": (4.5, "fp4"),
    # Weights in groups, each with a 16-bit scale and a zero point of as many bits as the weights (GPTQ,
    # arXiv:2210.17323; AWQ, arXiv:2306.00978), or in tiles of 128 x 128 with a 32-bit scale (DeepSeek-V3,
    # arXiv:2412.19437, section 3.3).
    "int4_g128": (4 + (16 + 4) / 128, "int4"),
    "int4_g64": (4 + (16 + 4) / 64, "int4"),
    "int4_g32": (4 + (16 + 4) / 32, "int4"),
    "int4_sym_g32": (4 + 16 / 32, "int4"),  # without zero points (Kimi K2 Thinking to K2.6)
    # Blocks of 64 with an 8-bit scale each, and a 32-bit scale for 256 of those (QLoRA, arXiv:2305.14314).
    "nf4": (4 + 8 / 64 + 32 / (64 * 256), "int4"),
    "int8_g128": (8 + (16 + 8) / 128, "int8"),
    "fp8_block": (8 + 32 / (128 * 128), "fp8"),
    "fp8_g128": (8 + 32 / 128, "fp8"),  # groups of 128, each with a 32-bit scale
    "int3": (3, "int3"),
    "int2": (2, "int2"),
    # Keys and values in groups of 32, each with a scale and a smallest value of 16 bits (arXiv:2402.02750).
    "int2_g32": (2 + 32 / 32, "int2"),
}
NAMES = tuple(FORMATS)
INDEX_KEYS = "fp8_g128"
ALIASES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "half": "fp16", "fp8_e4m3": "fp8"}
_BYTES = tuple(bits / 8 for bits, _ in FORMATS.values())


def known_dtype(name: str) -> str:
    """The name used here for a dtype; an InputError lists what exists."""
    found = ALIASES.get(name, name)
    if found not in FORMATS:
        raise choose(name, list(NAMES), "dtype")
    return found


def bytes_per_element(dtype: DtypeLike) -> Any:
    """Bytes that one element takes: a number for a name, an array for an array of codes."""
    if isinstance(dtype, str):
        return FORMATS[dtype][0] / 8
    import numpy as np

    return np.asarray(_BYTES)[dtype]


def compute_dtype(dtype: str) -> str:
    """The dtype whose peak applies to a multiplication in this format."""
    return FORMATS[dtype][1]


def codes(names: list[str]) -> NDArray[np.intp]:
    """An array of dtype codes for a grid."""
    import numpy as np

    return np.array([NAMES.index(known_dtype(name)) for name in names])


@dataclass(frozen=True)
class Precision:
    """In which formats a model is stored and run.

    `activations` is what matrix units multiply in. Where it has fewer than 16 bits, results and the
    residual stream are kept in `wide`, because accumulators are written out wide. Narrow formats are those of
    linear layers: tables of embeddings and the projection to the vocabulary keep 16 bits, as they do in
    checkpoints of compressed-tensors, ModelOpt, AutoAWQ, GPTQ and bitsandbytes, and in DeepSeek's.
    """

    weights: DtypeLike = "bf16"
    activations: DtypeLike = "bf16"
    kv: DtypeLike = "bf16"
    wide: DtypeLike = "bf16"
    experts: DtypeLike | None = None  # of the experts' matrices where it differs (MXFP4 of gpt-oss)
    experts_in: DtypeLike | None = None  # what experts multiply in where it differs (gpt-oss on Blackwell)

    @property
    def expert_weights(self) -> DtypeLike:
        """In which format experts are stored."""
        return self.weights if self.experts is None else self.experts

    @property
    def expert_activations(self) -> DtypeLike:
        """What experts multiply in."""
        return self.activations if self.experts_in is None else self.experts_in

    @property
    def tables(self) -> DtypeLike:
        """In which format the rows of tables and of the projection to the vocabulary are stored."""
        if isinstance(self.weights, str):
            return self.weights if FORMATS[self.weights][0] >= 16 else self.wide
        import numpy as np

        wide = codes([self.wide])[0] if isinstance(self.wide, str) else self.wide
        return np.where(bytes_per_element(self.weights) >= 2, self.weights, wide)

    @property
    def index_keys(self) -> DtypeLike:
        """In which format engines cache the keys that an indexer scores, whatever the format of other keys.

        fp8 with a scale for each key of 128 elements (DeepSeek-V3.2 and V4: vLLM's DeepseekV32IndexerCache,
        SGLang's NSATokenToKVPool, TensorRT-LLM's DSACacheManager); a model in fp32 is run by none.
        """
        if isinstance(self.wide, str):
            return self.kv if FORMATS[self.wide][0] > 16 else INDEX_KEYS
        import numpy as np

        kept = codes([self.kv])[0] if isinstance(self.kv, str) else self.kv
        return np.where(bytes_per_element(self.wide) > 2, kept, codes([INDEX_KEYS])[0])

    @property
    def unquantised(self) -> Precision:
        """Those of what is not quantised in this precision."""
        return Precision(self.tables, self.wide, self.wide, self.wide)

    @property
    def stored(self) -> str:
        """The formats of weights in words: one, or experts' apart."""
        return _and_experts(self.weights, self.expert_weights)

    @property
    def multiplied(self) -> str:
        """What products multiply in, in words: one format, or experts' apart."""
        return _and_experts(self.activations, self.expert_activations)

    @classmethod
    def of(
        cls,
        weights: str,
        activations: str | None = None,
        kv: str | None = None,
        experts: str | None = None,
        experts_in: str | None = None,
    ) -> Precision:
        """Names as a user gives them: activations default to 16 bits or more, KV to the activations.

        Weight-only quantisation (weights narrower than 16 bits, activations not given) multiplies in bf16.
        """
        weights = known_dtype(weights)
        narrow = FORMATS[weights][0] < 16
        activations = known_dtype(activations or ("bf16" if narrow else weights))
        wide = activations if FORMATS[activations][0] >= 16 else "bf16"
        apart = (known_dtype(name) if name else None for name in (experts, experts_in))
        return cls(weights, activations, known_dtype(kv) if kv else wide, wide, *apart)


def told(precision: Precision, others: Sequence[Mapping[str, Any]]) -> str:
    """All formats in words; `others` are those of a checkpoint that mixes some."""
    weights = weights_told(precision, others)
    return f"weights {weights}, activations {precision.multiplied}, KV {precision.kv}"


def weights_told(precision: Precision, others: Sequence[Mapping[str, Any]]) -> str:
    """The formats of weights in words."""
    apart = ", ".join(f"{entry['bytes'] / 1e9:.3g} GB in {entry['weights']}" for entry in others)
    return f"{precision.stored} ({apart})" if apart else precision.stored


def _and_experts(format: DtypeLike, experts: DtypeLike) -> str:
    return str(format) if experts is format or experts == format else f"{format}, experts {experts}"
