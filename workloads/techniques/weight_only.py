"""Weight-only quantisation: GPTQ, AWQ and NF4 store weights in few bits and multiply in 16."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.dtypes import FORMATS, bytes_per_element
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import in_format, on_projections


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
        precision = schedule.main.setting.precision
        if bytes_per_element(precision.weights) < FORMATS[self.format][0] / 8:
            return f"weights in {precision.weights} are narrower than {self.format} already"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """The embedding, the vocabulary projection, norms and routers stay as they are."""
        return schedule.with_change(on_projections(lambda product: in_format(product, self.format)))
