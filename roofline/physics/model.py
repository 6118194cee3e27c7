"""What a kernel model is: its constants, its parts, and what its kind says of libraries and of fits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from math import inf
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from roofline.physics.base import Bound, Columns, Constant, Dtypes, Floats, Gpu
    from roofline.physics.fit import Cell


class KernelModel(ABC):
    """Time of one kind of kernel. Vectorised over rows; constants are given, never looked up."""

    kinds: ClassVar[tuple[str, ...]]  # the `op` values that it predicts
    # Columns of a shape family: rows that agree in all are held out together.
    family: ClassVar[tuple[str, ...]]
    why: ClassVar[Mapping[str, str]] = {}  # the reason of each part
    # How it is fitted (see `fit`):
    start_weight: ClassVar[float] = 0.1  # of the starting values, of a prior's: how surely they are known
    most_rows: ClassVar[int] = 300  # of a cell that a fit looks at, evenly spread
    rows_of_family: ClassVar[float | None] = None  # that are evidence, where further ones only repeat them
    loose: ClassVar[bool] = False  # whether rows leave constants open: several descents, their middle
    odd_error: ClassVar[float] = inf  # in logarithms; rows further off ran something else
    # How it is carried to another generation (see `choice`):
    everyone_s: ClassVar[frozenset[str]] = frozenset()  # formats that all backends run by the same library
    few_rows_speak: ClassVar[bool] = False  # of a library's kernels, before many of other libraries
    starts_alike: ClassVar[bool] = False  # whose constants but those marked "format" are those of all formats
    ampere_apart: ClassVar[bool] = False  # whose kernel there is another algorithm
    like: ClassVar[str] = ""  # the kind whose constants stand in where a generation has none of this one
    # Where its starting values were published, which hold where no device has constants of its kinds.
    published: ClassVar[str] = ""
    # Whether it knows what the L2 keeps from one replay of a table's row to the next, which bounds no time.
    replayed: ClassVar[bool] = False
    # Names decide on tiles or loads: where none is asked for, none does.
    ruled_by_name: ClassVar[bool] = False

    @abstractmethod
    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """The constants for a device and formats: a term that cannot occur has none."""

    def carried_constants(self, kernel: str, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """The same as they follow other devices: libraries differ in what they use of a generation."""
        return self.constants(gpu, dtype)

    @abstractmethod
    def parts(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> dict[str, Floats]:
        """Named seconds in waterfall order, the ideal roofline first; the time is their sum.

        No part is negative. `rows` holds float arrays (strings for names); absent sizes are NaN.
        """

    def bound(self, rows: Columns, gpu: Gpu, dtype: Dtypes) -> Bound:
        """The parts of these rows by constants: what does not depend on constants may be done once."""
        return partial(self.parts, rows, gpu, dtype)

    def prepared(self, rows: Columns) -> Columns:
        """The rows with what is costly to know of them and better done for all rows at once."""
        return rows

    def library(self, kernel: str) -> str | None:
        """Whose products a kernel runs: those of a library stand in for each other; None where unknown."""
        return None

    def prior_of(self, kernel: str) -> str | None:
        """The kernels that share a prior, by what names them; None where all of a format do."""
        return self.library(kernel)

    def source(self, kernel: str) -> str | None:
        """What names the kernels that alone stand in for it elsewhere; None where all of a format may."""
        return self.library(kernel)

    def alike(self, kernel: str, dtype: str) -> tuple[str, ...]:
        """The formats that stand in for one, where a kernel multiplies in another than it is given."""
        return ()

    def borrowed(
        self, values: Mapping[str, float], lender: tuple[str, Dtypes], borrower: tuple[str, Dtypes]
    ) -> Mapping[str, float]:
        """What the constants of a kernel and format tell of another kernel, whose library may be another."""
        return values

    def multiplied(self, kernel: str, dtype: str) -> str:
        """The format in which a kernel multiplies, where it is another than that of its weights."""
        return dtype

    def alias(self, kernel: str, gpu: Gpu, dtype: str) -> str:
        """The name by which a kernel's library is known, where one name means several kernels."""
        return kernel

    def by_default(self, engine: str) -> str:
        """The kernel that an engine runs where it is asked for none; empty where that is not known."""
        return ""

    def renamed(self, kernel: str, one: Gpu, other: Gpu) -> bool:
        """Whether a kernel's name means one kernel on one GPU and another on the other."""
        return False

    def left_to(self, kernel: str, gpu: Gpu) -> tuple[tuple[str, str], frozenset[str]] | None:
        """The backend and kernel that a GPU runs in place of one for some rows, and its constants by name."""
        return None

    def sound(self, values: Mapping[str, float], gpu: Gpu, dtype: Dtypes) -> bool:
        """Whether a kernel's constants may speak for others."""
        return True

    def tuned(self, cell: Cell) -> bool:
        """Whether measured rows may be others' prior."""
        return True
