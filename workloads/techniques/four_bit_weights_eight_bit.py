"""W4A8 quantisation."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import in_format, on_projections


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

    weights: str = parameter(
        "int4_g128",
        "format of weights (QServe: 4 bits in groups of 128)",
        among=("int4_g128", "int4_g64", "int4"),
    )
    activations: str = parameter("int8", "in which products multiply", among=("int8", "fp8"))

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """The matrix units must support the format of activations."""
        if self.activations not in target.dtypes:
            return f"{target.name} has no matrix peak for {self.activations}"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """The embedding, the vocabulary projection, attention, norms and routers stay as they are."""
        return schedule.with_change(on_projections(lambda p: in_format(p, self.weights, self.activations)))
