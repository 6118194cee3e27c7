"""Work divided by ceilings: the limits on an operator's time, and which of them binds.

The roofline formulas are all in this module (kernel models: `roofline.physics`). Sizes are numbers, or arrays
over the points of a grid. Times are in seconds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from specfiles.frozen import dataclass
from workloads.arrays import NUMBER, maximum, minimum, where
from workloads.operators import Attention, Changed, Gemm

if TYPE_CHECKING:
    from hwspecs import Constants
    from roofline.ceilings import Ceilings
    from roofline.physics.kernels import KernelTime
    from workloads.operators import Operator
    from workloads.work import Work

BOUNDS = COMPUTE, MEMORY, COMMUNICATION, LAUNCH = "compute", "memory", "communication", "launch"
_TINY_S = 1e-30  # avoids 0 / 0 for an operator without work
# Memory bandwidth of one streaming multiprocessor while the others are idle, over its even share of the
# stated bandwidth. Measured on A100 with one thread block per head: 1.18 by FlashAttention 2 (aiconfigurator,
# contexts of 32k to 128k), 0.77 by version 2.0.9 (PyTorch, Flash-Decoding for long-context inference). The
# same value is assumed for other GPUs.
ALONE = 1.2
FUSED = "fused"  # takes no time of its own: it is computed inside a neighbouring operator's kernel


@dataclass(frozen=True)
class Times:
    """The limits on one operator's time, and its predicted time; all in seconds."""

    compute_s: Any  # of the busiest unit: matrix, vector or special-function
    memory_s: Any  # of traffic between memory or caches and the chip
    comm_s: Any  # of traffic over links to other devices, the host or its disks
    launch_s: Any
    time_s: Any
    kernel: KernelTime | None = None  # terms and error interval, where a kernel model gave the time
    corrected: bool = False  # whether all of it contains a learned correction
    uncalibrated: bool = False  # the roofline's, where the fidelity has nothing better for the operator

    @property
    def bound(self) -> Any:
        """The name of the largest limit; an array of names for arrays."""
        limits = (self.compute_s, self.memory_s, self.comm_s, self.launch_s)
        if isinstance(self.time_s, NUMBER):
            return BOUNDS[limits.index(max(limits))] if any(limits) else FUSED
        import numpy as np

        stacked = np.stack(np.broadcast_arrays(*limits))
        names = np.array((*BOUNDS, FUSED), dtype=object)
        return names[np.where(stacked.any(axis=0), stacked.argmax(axis=0), len(BOUNDS))]


def times(
    operator: Operator, ceilings: Ceilings, kernel: KernelTime | None = None, work: Work | None = None
) -> Times:
    """The time of one execution of an operator at the ceilings' fidelity.

    Datasheet: the roofline bound max(compute, memory, communication) (doi:10.1145/1498765.1498785).
    Measured: the same with measured ceilings, cache levels and launch latency. Calibrated: the constants of
    the operator's class where the device has been measured, else the time of its kernel model. The time is
    never below that of the previous fidelity, but for messages, which the data sheet bounds. `kernel` and
    `work` are passed by callers that have computed them already.
    """
    work = work or operator.work()
    devices = getattr(operator, "devices", None)  # participants of a collective
    bound = _bound(work, ceilings, devices)
    if isinstance(operator, Changed) and (ceilings.constants or ceilings.kernels) and not work.fused:
        return _floored(_changed(operator, ceilings, bound), work, ceilings, devices)
    constants = _own(operator, work, ceilings)
    if constants is not None and not work.fused:
        found = _refined(work, constants, bound)
        bound = replace(found, time_s=maximum(found.time_s, bound.time_s))
    elif ceilings.kernels is not None and not work.fused:
        kernel = kernel or ceilings.kernels.operator(operator)
        bound = _modelled(operator, kernel, bound, sends=not _is_zero(work.comm_bytes))
    if constants is None and bound.kernel is None and ceilings.fidelity.calibrates and not work.fused:
        bound = replace(bound, uncalibrated=True)
    return _floored(bound, work, ceilings, devices)


def _floored(found: Times, work: Work, ceilings: Ceilings, devices: int | None) -> Times:
    """The times, raised to the data-sheet bound where they are below it."""
    if ceilings.floor is None:
        return found
    return replace(found, time_s=maximum(found.time_s, _bound(work, ceilings.floor, devices).time_s))


def _changed(operator: Changed, ceilings: Ceilings, bound: Times) -> Times:
    """The time of an operator whose work a technique changed, from that of the unchanged operator.

    No kernel of the changed operator has been measured. The unchanged operator's time above its roofline
    limit is scaled by the ratio of the two limits; launch latency is kept in full, and transfers over links
    overlap.
    """
    plain = operator.unchanged()
    before, limits = times(plain, ceilings), _bound(plain.work(), ceilings)
    limit, left = (maximum(t.compute_s, t.memory_s) for t in (limits, bound))
    above = maximum(before.time_s - before.launch_s - limit, 0.0)
    share = minimum(left / (limit + _TINY_S), 1.0)
    time = maximum(left + above * share + before.launch_s, bound.comm_s)
    found = replace(bound, launch_s=before.launch_s, time_s=maximum(time, bound.time_s))
    return replace(found, uncalibrated=before.uncalibrated)


def _own(operator: Operator, work: Work, ceilings: Ceilings) -> Constants | None:
    """The constants of the operator's class; None where this device was not measured."""
    if not ceilings.constants:
        return None
    kinds = narrow_class(operator), operator_class(operator)
    found = (ceilings.constants.get((kind, str(work.dtype))) for kind in kinds if kind)
    return next(filter(None, found), None)


def narrow_class(operator: Operator) -> str | None:
    """The class of one-row products with weights in a narrower format, which have kernels of their own."""
    if not isinstance(operator, Gemm) or not isinstance(operator.weights, str):
        return None
    narrow = operator.weights != operator.inputs and _is_one(operator.m)
    return f"gemv_{operator.weights}" if narrow else None


def operator_class(operator: Operator) -> str:
    """The class whose calibrated constants apply: the kind, split where libraries use different kernels."""
    if isinstance(operator, Gemm) and _is_one(operator.m):
        return "gemv"
    if isinstance(operator, Attention):
        if _is_one(operator.q_len):
            return "attention_decode"
        # Unfused attention is two matrix products and elementwise kernels over the scores in memory.
        return "attention_prefill" if operator.fused else "gemm"
    return operator.kind


def products_s(work: Work, ceilings: Ceilings) -> Any:
    """Seconds of matrix products at the dense peak of the format that they multiply in."""
    return 0.0 if _is_zero(work.matrix_flops) else work.matrix_flops / ceilings.matrix_flop_per_s(work.dtype)


def _bound(work: Work, ceilings: Ceilings, devices: int | None = None) -> Times:
    compute = products_s(work, ceilings) / work.filled
    # Where a vector or special-function ceiling is unknown its term is omitted; the result is still a bound.
    if ceilings.vector_flop_per_s is not None:
        compute = maximum(compute, work.vector_flops / ceilings.vector_flop_per_s)
    if ceilings.special_op_per_s is not None:
        compute = maximum(compute, work.special_ops / ceilings.special_op_per_s)
    if work.fused:  # overlaps with the matrix product of the kernel that computes it
        compute = 0.0
    memory = _memory(work, ceilings)
    if work.spread is not None:
        compute, memory = _by_few(work.spread, ceilings, compute, memory)
    comm: Any = 0.0
    if not _is_zero(sent := work.comm_bytes):
        comm = sent / ceilings.link(devices)
    if not _is_zero(streamed := work.host_bytes):
        comm = maximum(comm, streamed / ceilings.host())
    if not _is_zero(read := work.disk_bytes):
        comm = maximum(comm, read / ceilings.disk())
    if not _is_zero(computed := work.host_memory_bytes):
        comm = maximum(comm, computed / ceilings.host_memory())
    launch = 0.0 if work.fused else ceilings.launch_s
    return Times(compute, memory, comm, launch, maximum(maximum(compute, memory), comm) + launch)


def _by_few(spread: Any, ceilings: Ceilings, compute: Any, memory: Any) -> tuple[Any, Any]:
    """Compute and memory limits of work in `spread` parts, each of which one processor computes alone."""
    busy = spread / ceilings.count()
    stated = (ceilings.floor or ceilings).dram_byte_per_s  # ALONE refers to the stated bandwidth
    alone = memory * (ceilings.dram_byte_per_s / stated) / (ALONE * busy)
    return compute / minimum(busy, 1.0), maximum(memory, alone)


def _memory(work: Work, ceilings: Ceilings) -> Any:
    """Time of memory traffic: weights and KV from DRAM, activations from the nearest cache that holds them.

    Data-sheet ceilings have no cache levels, so all tensors move between DRAM and the chip.
    """
    if not ceilings.caches:
        return work.bytes / ceilings.dram_byte_per_s
    activations = work.activation_bytes
    served = activations / ceilings.dram_byte_per_s
    for capacity, byte_per_s in reversed(ceilings.caches):
        served = where(activations <= capacity, activations / byte_per_s, served)
    return (work.weight_bytes + work.kv_bytes) / ceilings.dram_byte_per_s + served


def _refined(work: Work, constants: Constants, bound: Times) -> Times:
    compute, memory, time = calibrated_limits(
        constants, work.flops, work.special_ops, work.bytes, work.outputs
    )
    return Times(compute, memory, bound.comm_s, constants.launch_s, maximum(time, bound.comm_s))


def _modelled(operator: Operator, kernel: KernelTime | None, bound: Times, sends: bool) -> Times:
    """The kernel model's time, at least the bound; a number where the operator's sizes are numbers.

    What links were measured to reach bounds no message: it is one algorithm's, and the model knows several.
    """
    if kernel is None:
        return bound
    number = not any(getattr(size, "shape", ()) for size in vars(operator).values())
    launch: Any = kernel.parts.get("launch", 0 * kernel.time_s)
    time: Any = kernel.time_s
    if number:
        launch, time = float(launch[0]), float(time[0])
    learned = kernel.corrected is not None and bool(kernel.corrected.all())
    least = maximum(bound.compute_s, bound.memory_s) + bound.launch_s if sends else bound.time_s
    time = maximum(time, least)
    return replace(bound, launch_s=launch, time_s=time, kernel=kernel, corrected=learned)


def calibrated_limits(
    constants: Constants, flops: Any, special_ops: Any, size: Any, outputs: Any
) -> tuple[Any, Any, Any]:
    """Compute, memory and total time [s] by an operator class's constants (formula: hwspecs.Constants)."""
    compute = flops * _inverse(constants.flop_per_s) + special_ops * _inverse(constants.special_op_per_s)
    memory = size * _inverse(constants.byte_per_s)
    if constants.cache_bytes is not None:
        memory = where(size <= constants.cache_bytes, size * _inverse(constants.cached_byte_per_s), memory)
    memory = memory + outputs * constants.output_s
    longer, shorter = maximum(compute, memory), minimum(compute, memory)
    return compute, memory, constants.launch_s + longer + (1 - constants.overlap) * shorter


def _inverse(rate: float | None) -> float:
    return 1 / rate if rate else 0.0


def _is_one(size: Any) -> bool:
    return bool(size == 1) if isinstance(size, NUMBER) else bool((size == 1).all())


def _is_zero(size: Any) -> bool:
    return isinstance(size, NUMBER) and size == 0
