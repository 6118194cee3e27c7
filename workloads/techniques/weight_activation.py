"""Weight-activation quantisation: products multiply in few bits."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.dtypes import FORMATS, bytes_per_element, compute_dtype
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import in_format, on_projections


@dataclass(frozen=True)
class WeightActivation(Technique):
    """Weights and activations of the layers' projections in one narrow format, results in 16 bits."""

    name = "weight-activation-quantisation"
    aliases = ("smoothquant", "w8a8")
    variants = {"fp8": {"format": "fp8"}, "w8a8-fp8": {"format": "fp8"}, "nvfp4": {"format": "nvfp4"}}
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

    format: str = parameter(
        "int8",
        "in which products multiply (SmoothQuant: INT8)",
        among=("int8", "fp8", "fp8_block", "nvfp4", "bf16"),
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """The matrix units must know the format."""
        unit = compute_dtype(self.format)
        if unit not in target.dtypes:
            return f"{target.name} has no matrix peak for {unit}"
        weights = schedule.main.setting.precision.weights
        if bytes_per_element(weights) < FORMATS[self.format][0] / 8:
            return f"weights in {weights} are narrower than {self.format} already"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """The embedding, the vocabulary projection, attention, norms and routers stay as they are."""
        return schedule.with_change(on_projections(lambda p: in_format(p, self.format, self.format)))
