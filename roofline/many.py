"""The ceilings of many points at once: each point has its device, each ceiling is an array over points."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from roofline.ceilings import Ceilings
from specfiles.frozen import dataclass
from workloads.dtypes import NAMES, compute_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ManyCeilings(Ceilings):
    """Ceilings by point; asking for one that a point's device lacks raises that device's own error."""

    of: tuple[Ceilings, ...] = ()
    index: Any = None  # which of them each point has
    peaks: dict[Any, Any] = field(default_factory=dict)  # by the identity of an array of dtype codes

    def matrix_flop_per_s(self, dtype: Any) -> Any:
        """The dense peak of each point in its dtype: a name, or codes of `workloads.dtypes.NAMES`."""
        key = dtype if isinstance(dtype, str) else id(dtype)
        if key not in self.peaks:
            codes = np.full(len(self.index), NAMES.index(dtype)) if isinstance(dtype, str) else dtype
            self.peaks[key] = (dtype, self._peaks(codes))  # the array is kept, or its identity could return
        return self.peaks[key][1]

    def _peaks(self, codes: NDArray[np.intp]) -> NDArray[np.float64]:
        absent = math.inf if self.is_floor else math.nan
        units = [compute_dtype(name) for name in NAMES]
        table = np.array([[c.matrix_by_dtype.get(unit, absent) for unit in units] for c in self.of])
        found: NDArray[np.float64] = table[self.index, codes]
        missing = np.isnan(found)
        if missing.any():
            first = int(missing.argmax())
            self.of[self.index[first]].matrix_flop_per_s(NAMES[codes[first]])  # raises
        return found

    def count(self) -> Any:
        """Processors of each point's device."""
        return np.array([c.count() for c in self.of])[self.index]

    def host(self) -> Any:
        """Bandwidth of each point's device to its host's memory."""
        return np.array([c.host() for c in self.of])[self.index]

    def disk(self) -> Any:
        """Bandwidth of the disks of each point's host."""
        return np.array([c.disk() for c in self.of])[self.index]

    def host_memory(self) -> Any:
        """Bandwidth of the memory of each point's host."""
        return np.array([c.host_memory() for c in self.of])[self.index]

    def link(self, devices: Any = None) -> Any:
        """Bandwidth of each point's device to the others of a group."""
        used = np.unique(self.index)
        rates = np.full(len(self.of), math.nan)
        rates[used] = [self.of[i].link(devices) for i in used]
        return rates[self.index]


def many(of: Sequence[Ceilings], index: NDArray[np.intp]) -> ManyCeilings:
    """The ceilings of points whose devices are `of[index]`, all of one fidelity.

    Constants and kernel models of the calibrated fidelity have no arrays over devices: see `roofline.grid`.
    """

    def each(value: Callable[[Ceilings], float | None]) -> Any:
        values = [value(c) for c in of]
        return np.array([math.inf if v is None else v for v in values])[index]

    depth = max(len(c.caches) for c in of)
    # Devices with fewer levels get nearest ones that hold nothing.
    padded = np.array([((-1.0, 1.0),) * (depth - len(c.caches)) + c.caches for c in of])
    floors = [c.floor for c in of if c.floor is not None]
    return ManyCeilings(
        device="",
        fidelity=of[0].fidelity,
        matrix_by_dtype={},
        vector_flop_per_s=each(lambda c: c.vector_flop_per_s),
        special_op_per_s=each(lambda c: c.special_op_per_s),
        dram_byte_per_s=each(lambda c: c.dram_byte_per_s),
        link_byte_per_s=None,
        launch_s=each(lambda c: c.launch_s),
        caches=tuple((padded[index, level, 0], padded[index, level, 1]) for level in range(depth)),
        floor=replace(many(floors, index), is_floor=True) if len(floors) == len(of) else None,
        is_floor=of[0].is_floor,
        of=tuple(of),
        index=index,
    )
