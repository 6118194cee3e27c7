"""LLM.int8(): 8 bits with a path for outliers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from workloads.dtypes import bytes_per_element
from workloads.phases import Named
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import each_row, in_format, is_projection, with_weights


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
    assumed = ("outliers",)

    outliers: float = parameter(0.001, "share of columns with outliers (the paper: 0.1 %)", low=0, high=1)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """The matrix units must support int8, and weights must be wider."""
        if "int8" not in target.dtypes:
            return f"{target.name} has no matrix peak for int8"
        weights = schedule.main.setting.precision.weights
        if bytes_per_element(weights) < 1:
            return f"weights in {weights} are narrower than int8 already"
        return None

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
