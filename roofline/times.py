"""Work divided by ceilings: the limits on an operator's time and the one that binds.

Every formula of time stands here. Sizes may be numbers or arrays over a grid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from specfiles.frozen import dataclass
from workloads.operators import Attention, Changed, Gemm

if TYPE_CHECKING:
    from hwspecs import Constants
    from roofline.ceilings import Ceilings
    from roofline.physics.kernels import KernelTime
    from workloads.operators import Operator
    from workloads.work import Work

NUMBER = (int, float)
BOUNDS = COMPUTE, MEMORY, COMMUNICATION, LAUNCH = "compute", "memory", "communication", "launch"
_TINY_S = 1e-30  # keeps an operator without work from dividing by nothing
# A processor alone streams so many times its share of the stated memory bandwidth. Measured with one block
# of threads for each head on A100: 1.18 by FlashAttention 2 (aiconfigurator, contexts of 32k to 128k), 0.77
# by version 2.0.9 (PyTorch, Flash-Decoding for long-context inference). Other GPUs are taken to be like it.
ALONE = 1.2
FUSED = "fused"  # costs no time of its own: it runs inside a neighbour's kernel


@dataclass(frozen=True)
class Times:
    """The limits on one operator's time, in seconds, and the time that follows from them."""

    compute_s: Any  # the busiest unit: matrix, vector or special functions
    memory_s: Any
    comm_s: Any
    launch_s: Any
    time_s: Any
    kernel: KernelTime | None = None  # the parts and the interval, where a kernel model gave the time
    corrected: bool = False  # whether a learned correction is in all of it

    @property
    def bound(self) -> Any:
        """The name of the largest limit; an array of names for arrays."""
        limits = (self.compute_s, self.memory_s, self.comm_s, self.launch_s)
        if isinstance(self.time_s, NUMBER):
            return BOUNDS[limits.index(max(limits))] if any(limits) else FUSED
        import numpy as np

        stacked = np.stack(np.broadcast_arrays(*limits))
        names = np.asarray(BOUNDS)[stacked.argmax(axis=0)]
        return np.where(stacked.any(axis=0), names, FUSED)


def times(
    operator: Operator, ceilings: Ceilings, kernel: KernelTime | None = None, work: Work | None = None
) -> Times:
    """The time of one execution at the ceilings' fidelity.

    Datasheet and measured: the roofline bound max(compute, memory, communication)
    (doi:10.1145/1498765.1498785), the measured one by cache level and with launch latency. Calibrated:
    the constants of the operator's class where the device has them, else the kernel model's time
    (`kernel`, where it was found for rows of a table). No fidelity is below the one before. `work` is the
    operator's, where the caller has it already.
    """
    work = work or operator.work()
    devices = getattr(operator, "devices", None)  # that take part in a collective
    bound = _bound(work, ceilings, devices)
    if isinstance(operator, Changed) and (ceilings.constants or ceilings.kernels) and not work.fused:
        return _floored(_changed(operator, ceilings, bound), work, ceilings, devices)
    constants = _own(operator, work, ceilings)
    if constants is not None and not work.fused:
        found = _refined(work, constants, bound)
        bound = replace(found, time_s=maximum(found.time_s, bound.time_s))
    elif ceilings.kernels is not None and not work.fused:
        bound = _modelled(operator, kernel or ceilings.kernels.operator(operator), bound)
    return _floored(bound, work, ceilings, devices)


def _floored(found: Times, work: Work, ceilings: Ceilings, devices: int | None) -> Times:
    """The times, not below those of the floor that the ceilings stand on."""
    if ceilings.floor is None:
        return found
    return replace(found, time_s=maximum(found.time_s, _bound(work, ceilings.floor, devices).time_s))


def _changed(operator: Changed, ceilings: Ceilings, bound: Times) -> Times:
    """The time of an operator whose work a technique changed, from that of the operator as it was.

    No kernel of it was measured. What the operator took above its limit it takes in proportion to what is
    left of that limit, its launch in full; what passes links overlaps.
    """
    plain = operator.unchanged()
    before, limits = times(plain, ceilings), _bound(plain.work(), ceilings)
    limit, left = (maximum(t.compute_s, t.memory_s) for t in (limits, bound))
    above = maximum(before.time_s - before.launch_s - limit, 0.0)
    share = minimum(left / (limit + _TINY_S), 1.0)
    time = maximum(left + above * share + before.launch_s, bound.comm_s)
    return replace(bound, launch_s=before.launch_s, time_s=maximum(time, bound.time_s))


def _own(operator: Operator, work: Work, ceilings: Ceilings) -> Constants | None:
    """The constants of the operator's class, where the device was measured itself."""
    if not ceilings.constants:
        return None
    kinds = narrow_class(operator), operator_class(operator)
    found = (ceilings.constants.get((kind, str(work.dtype))) for kind in kinds if kind)
    return next(filter(None, found), None)


def narrow_class(operator: Operator) -> str | None:
    """The class of products of one row with weights in a narrower format, which other kernels compute."""
    if not isinstance(operator, Gemm) or not isinstance(operator.weights, str):
        return None
    narrow = operator.weights != operator.inputs and _is_one(operator.m)
    return f"gemv_{operator.weights}" if narrow else None


def operator_class(operator: Operator) -> str:
    """The class whose calibrated constants apply: kinds split where libraries run other kernels."""
    if isinstance(operator, Gemm) and _is_one(operator.m):
        return "gemv"
    if isinstance(operator, Attention):
        if _is_one(operator.q_len):
            return "attention_decode"
        # With its scores in memory it is matrix products, which run as fast as others, and passes over them.
        return "attention_prefill" if operator.fused else "gemm"
    return operator.kind


def _bound(work: Work, ceilings: Ceilings, devices: int | None = None) -> Times:
    compute: Any = 0.0
    if not _is_zero(work.matrix_flops):
        compute = work.matrix_flops / (work.filled * ceilings.matrix_flop_per_s(work.dtype))
    # A missing vector or special-function ceiling leaves that term out: the bound stays a bound.
    if ceilings.vector_flop_per_s is not None:
        compute = maximum(compute, work.vector_flops / ceilings.vector_flop_per_s)
    if ceilings.special_op_per_s is not None:
        compute = maximum(compute, work.special_ops / ceilings.special_op_per_s)
    if work.fused:  # hides beside the matrix product of the kernel it lives in
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
    """Both limits where the work is in so many parts, and a processor computes one of them alone."""
    busy = spread / ceilings.count()
    stated = (ceilings.floor or ceilings).dram_byte_per_s  # what is reached together limits none alone
    alone = memory * (ceilings.dram_byte_per_s / stated) / (ALONE * busy)
    return compute / minimum(busy, 1.0), maximum(memory, alone)


def _memory(work: Work, ceilings: Ceilings) -> Any:
    """Weights and KV come from memory; activations from the nearest cache that holds them all.

    Data-sheet ceilings have no cache levels: there every tensor is moved between memory and chip.
    """
    if not ceilings.caches:
        return work.bytes / ceilings.dram_byte_per_s
    activations = work.activation_bytes
    served = activations / ceilings.dram_byte_per_s
    for capacity, byte_per_s in reversed(ceilings.caches):
        served = _where(activations <= capacity, activations / byte_per_s, served)
    return (work.weight_bytes + work.kv_bytes) / ceilings.dram_byte_per_s + served


def _refined(work: Work, constants: Constants, bound: Times) -> Times:
    compute, memory, time = calibrated_limits(
        constants, work.flops, work.special_ops, work.bytes, work.outputs
    )
    return Times(compute, memory, bound.comm_s, constants.launch_s, maximum(time, bound.comm_s))


def _modelled(operator: Operator, kernel: KernelTime | None, bound: Times) -> Times:
    """The kernel model's time, not below the bound; a number where the operator's sizes are numbers."""
    if kernel is None:
        return bound
    number = not any(getattr(size, "shape", ()) for size in vars(operator).values())
    launch: Any = kernel.parts.get("launch", 0 * kernel.time_s)
    time: Any = kernel.time_s
    if number:
        launch, time = float(launch[0]), float(time[0])
    learned = kernel.corrected is not None and bool(kernel.corrected.all())
    time = maximum(time, bound.time_s)
    return replace(bound, launch_s=launch, time_s=time, kernel=kernel, corrected=learned)


def calibrated_limits(
    constants: Constants, flops: Any, special_ops: Any, size: Any, outputs: Any
) -> tuple[Any, Any, Any]:
    """Compute, memory and whole time by the constants of an operator class (formula: hwspecs.Constants)."""
    compute = flops * _inverse(constants.flop_per_s) + special_ops * _inverse(constants.special_op_per_s)
    memory = size * _inverse(constants.byte_per_s)
    if constants.cache_bytes is not None:
        memory = _where(size <= constants.cache_bytes, size * _inverse(constants.cached_byte_per_s), memory)
    memory = memory + outputs * constants.output_s
    longer, shorter = maximum(compute, memory), minimum(compute, memory)
    return compute, memory, constants.launch_s + longer + (1 - constants.overlap) * shorter


def _inverse(rate: float | None) -> float:
    return 1 / rate if rate else 0.0


def maximum(a: Any, b: Any) -> Any:
    """The larger; elementwise for arrays. Numbers do not import NumPy."""
    if isinstance(a, NUMBER) and isinstance(b, NUMBER):
        return a if a >= b else b
    import numpy as np

    return np.maximum(a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller; elementwise for arrays."""
    return -maximum(-a, -b)


def _where(condition: Any, yes: Any, no: Any) -> Any:
    if isinstance(condition, bool):
        return yes if condition else no
    import numpy as np

    return np.where(condition, yes, no)


def _is_one(size: Any) -> bool:
    return bool(size == 1) if isinstance(size, NUMBER) else bool((size == 1).all())


def _is_zero(size: Any) -> bool:
    return isinstance(size, NUMBER) and size == 0
