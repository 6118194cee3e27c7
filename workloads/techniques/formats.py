"""Formats of weights, and of the activations that they are multiplied with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from workloads.dtypes import bytes_per_element, compute_dtype
from workloads.phases import Named
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import each_row, in_format, is_projection, on_projections, with_weights


def _no_units(target: Target, format: str) -> str | None:
    """Why a device cannot multiply in a format; None where it can."""
    unit = compute_dtype(format)
    return None if unit in target.dtypes else f"{target.name} has no matrix peak for {unit}"


def _narrower(schedule: Schedule, format: str) -> str | None:
    """Why weights cannot be brought to a format; None where they are as wide or wider."""
    weights = schedule.main.setting.precision.weights
    if bytes_per_element(weights) < bytes_per_element(format):
        return f"weights in {weights} are narrower than {format} already"
    return None


@dataclass(frozen=True)
class WeightOnly(Technique):
    """Weights of the layers' projections in groups of few bits with a scale and a zero point each."""

    name = "weight-only-quantisation"
    aliases = ("awq", "gptq", "w4a16", "int4", "weight-only")
    variants = {
        "nf4": {"format": "nf4"},
        "qlora": {"format": "nf4"},
        "mxfp4": {"format": "mxfp4"},
        "int8-weight-only": {"format": "int8"},
        "w8a16": {"format": "int8"},
    }
    category = "quantisation"
    paper = "GPTQ arXiv:2210.17323; AWQ arXiv:2306.00978; NF4: QLoRA arXiv:2305.14314"
    removes = "most of the bytes of the layers' weights"
    adds = "scales and zero points; dequantisation on the vector units, inside the product's kernel"
    needs = "a kernel that dequantises weights as it loads them (Marlin, AWQ); calibration data"
    quality = "lossy"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "the format of weights"
    on_arrays = True

    format: str = parameter(
        "int4_g128",
        "bits and group size (AWQ: 4 bits in groups of 128)",
        among=(
            "int4_g128",
            "int4_g64",
            "int4_g32",
            "int8_g128",
            "nf4",
            "mxfp4",
            "int8",
            "int4",
            "int3",
            "int2",
            "bf16",
        ),
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """Weights that are narrower already are not widened."""
        return _narrower(schedule, self.format)

    def apply(self, schedule: Schedule) -> Schedule:
        """The embedding, the vocabulary projection, norms and routers stay as they are."""
        return schedule.with_change(on_projections(lambda product: in_format(product, self.format)))


@dataclass(frozen=True)
class WeightActivation(Technique):
    """Weights and activations of the layers' projections in one narrow format, results in 16 bits."""

    name = "weight-activation-quantisation"
    aliases: ClassVar[tuple[str, ...]] = ("smoothquant", "w8a8", "int8")
    variants = {"fp8": {"format": "fp8"}, "w8a8-fp8": {"format": "fp8"}, "nvfp4": {"format": "nvfp4"}}
    tried: ClassVar[tuple[Mapping[str, Any], ...]] = (variants["fp8"], variants["nvfp4"])
    category = "quantisation"
    paper = "SmoothQuant arXiv:2211.10438; FP8 formats arXiv:2209.05433; NVFP4: NVIDIA Transformer Engine"
    removes = (
        "bytes of weights and of projections' inputs; time on the matrix units, which are faster in few bits"
    )
    adds = "scales; quantisation of activations in the kernel before"
    needs = "matrix units that multiply in the format; calibration data"
    quality = "lossy"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "the format of weights"
    on_arrays = True

    format: str = parameter(
        "int8",
        "in which products multiply (SmoothQuant: INT8)",
        among=("int8", "fp8", "fp8_block", "nvfp4", "bf16"),
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """The matrix units must know the format, and weights must not be narrower."""
        return _no_units(target, self.format) or _narrower(schedule, self.format)

    def apply(self, schedule: Schedule) -> Schedule:
        """The embedding, the vocabulary projection, attention, norms and routers stay as they are."""
        return schedule.with_change(on_projections(lambda p: in_format(p, self.format, self.format)))


@dataclass(frozen=True)
class WeightFourActivationEight(Technique):
    """Group-wise 4-bit weights, which the kernel dequantises to 8 bits, and 8-bit products."""

    name = "w4a8"
    aliases = ("qserve", "qoq")
    category = "quantisation"
    paper = "QServe arXiv:2405.04532"
    removes = "bytes of weights; time on the matrix units"
    adds = "scales in two levels; dequantisation inside the product's kernel; quantisation of activations"
    needs = "matrix units for the format of activations; a kernel that dequantises weights"
    quality = "lossy"
    served = "TensorRT-LLM"
    slot = "the format of weights"
    on_arrays = True

    weights: str = parameter(
        "int4_g128",
        "format of weights (QServe: 4 bits in groups of 128)",
        among=("int4_g128", "int4_g64", "int4"),
    )
    activations: str = parameter("int8", "in which products multiply", among=("int8", "fp8"))

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """The matrix units must support the format of activations, and weights must not be narrower."""
        return _no_units(target, self.activations) or _narrower(schedule, self.weights)

    def apply(self, schedule: Schedule) -> Schedule:
        """The embedding, the vocabulary projection, attention, norms and routers stay as they are."""
        return schedule.with_change(on_projections(lambda p: in_format(p, self.weights, self.activations)))


@dataclass(frozen=True)
class Int8Outliers(Technique):
    """Products in 8 bits, but for the few columns with outliers, which stay in 16."""

    name = "llm-int8"
    aliases = ("llm-int8()", "bitsandbytes-int8")
    category = "quantisation"
    paper = "LLM.int8() arXiv:2208.07339"
    removes = "bytes of weights; time on the matrix units"
    adds = "a second product over the outlier columns; quantisation of activations"
    needs = "matrix units for int8"
    quality = "lossy"
    served = "vLLM"
    slot = "the format of weights"
    on_arrays = True
    assumed = ("outliers",)

    outliers: float = parameter(0.001, "share of columns with outliers (the paper: 0.1 %)", low=0, high=1)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """The matrix units must support int8, and weights must not be narrower."""
        return _no_units(target, "int8") or _narrower(schedule, "int8")

    def apply(self, schedule: Schedule) -> Schedule:
        """Both products run one after the other, and the second reads its columns again (section 3.2)."""
        return schedule.with_change(each_row(self._split))

    def _split(self, row: Named) -> list[Named]:
        product: Any = row.operator
        narrow = in_format(product, "int8", "int8") if is_projection(row) else product
        whole = replace(row, operator=narrow)
        if narrow is product or not self.outliers:
            return [whole]
        columns = replace(product, k=product.k * self.outliers, weights="int8", bias=False)
        again = replace(with_weights(columns, 1.0), stored=0.0)
        return [whole, replace(row, name=f"{row.name}.outliers", operator=again)]


@dataclass(frozen=True)
class QuantisationAware(WeightActivation):
    """Weight and activation quantisation with training that recovers part of the lost quality."""

    name = "quantisation-aware-training"
    aliases = ("qat", "llm-qat")
    variants = {}
    tried = ()
    paper = "LLM-QAT arXiv:2305.17888"
    removes = "what weight-activation quantisation removes"
    adds = "what weight-activation quantisation adds; nothing more in inference"
    needs = "training with quantised weights and activations; matrix units for the format"
    quality = "retrained"

    format: str = parameter("int8", "in which products multiply", among=("int8", "fp8", "nvfp4", "bf16"))
