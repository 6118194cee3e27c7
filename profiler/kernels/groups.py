"""Products of rows with the matrix of their group: PyTorch's grouped kernel where it has one, else a loop."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from profiler.kernels.place import Place

ALIGNED = 8  # bf16 elements: torch._grouped_mm needs strides in multiples of 16 bytes
GENERATIONS = (9, 10)  # major compute capabilities with one kernel; elsewhere it loops and synchronises


class Groups:
    """`rows` rows spread evenly over `touched` of `count` groups, in order."""

    def __init__(self, place: Place, rows: int, count: int, touched: int) -> None:
        self.place, self.rows, self.count = place, rows, count
        self.touched = max(1, min(touched, rows, count))

    @cached_property
    def spans(self) -> list[tuple[int, int, int]]:
        """(group, first row, last row + 1) of each touched group."""
        bounds = [part * self.rows // self.touched for part in range(self.touched + 1)]
        return [(part * self.count // self.touched, *span) for part, span in enumerate(pairwise(bounds))]

    @cached_property
    def owners(self) -> torch.Tensor:
        """The group of each row."""
        import torch

        owner = [group for group, begin, end in self.spans for _ in range(begin, end)]
        return torch.tensor(owner, device=self.place.device)

    def by_row(self, of_groups: torch.Tensor) -> torch.Tensor:
        """[rows, ...] with the entry of each row's group in [count, ...]."""
        return of_groups[self.owners]

    def kernel(self, n: int, k: int) -> str:
        """The name of the kernel."""
        return "torch._grouped_mm" if self._one_kernel(n, k) else "torch loop"

    def multiply(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """x[rows, k] with weights[count, n, k]: [rows, n]."""
        import torch

        if self._one_kernel(weights.shape[1], weights.shape[2]):
            return torch._grouped_mm(x, weights.transpose(1, 2), offs=self._offsets)
        product = x.new_empty(len(x), weights.shape[1])
        for group, begin, end in self.spans:
            torch.mm(x[begin:end], weights[group].t(), out=product[begin:end])
        return product

    def _one_kernel(self, n: int, k: int) -> bool:
        import torch

        if not self.place.device.startswith("cuda") or self.place.dtype != "bf16":
            return False
        if n % ALIGNED or k % ALIGNED:
            return False
        capability = torch.cuda.get_device_capability(self.place.device)
        return hasattr(torch, "_grouped_mm") and capability[0] in GENERATIONS

    @cached_property
    def _offsets(self) -> torch.Tensor:
        """The last row + 1 of every group, including empty ones."""
        import torch

        rows = dict.fromkeys(range(self.count), 0) | {group: end - begin for group, begin, end in self.spans}
        counts = torch.tensor(list(rows.values()), device=self.place.device)
        return counts.cumsum(0).to(torch.int32)


def exact_products(x: torch.Tensor, weights: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    """Each row of x[rows, k] with the matrix of its group in weights[count, n, k], in fp64: [rows, n]."""
    import torch

    product = x.new_empty(len(x), weights.shape[1], dtype=torch.float64)
    for group in owners.unique().tolist():
        of_group = owners == group
        product[of_group] = x[of_group].double() @ weights[group].double().t()
    return product
