"""Sentences of a run's notes: repeats of steps, their implementation, time attributed to operators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from profiler.attending import AUTO
from profiler.repeats import KNOWN_FROM, moved, sample
from reports.units import percent, seconds
from reports.wording import counted, signed

if TYPE_CHECKING:
    from profiler.forward import Point
    from profiler.repeats import Sample
    from profiler.steps import Timed
    from roofline.run_head import Attributed, Compilation, Overhead

LONG_WAIT = 0.1  # share of a step spent waiting, which its trace shows as time of operators
MOVED = 0.02  # drift between the halves of the repeats; the interval covers less
MOST_TOLD = 3  # outliers listed


def label(point: Point | Compilation | Overhead | Attributed) -> str:
    """A step as one word."""
    encoded = f"-encoder{point.encoder_len}" if point.kv_len > point.encoder_len > 0 else ""
    return f"{point.phase}-{point.batch}x{point.q_len}of{point.kv_len}{encoded}"


def in_words(point: Point) -> str:
    """A step in words."""
    encoded = f", {point.encoder_len} of them the encoder's" if point.kv_len > point.encoder_len > 0 else ""
    return f"{point.phase} of batch {point.batch}, {point.q_len} of {point.kv_len} tokens{encoded}"


def repeated_words(where: str, whole: Sample, timed: Timed, began: float, *, by_wall: bool) -> Iterator[str]:
    """Number of repeats, why they ended, outliers, and drift.

    `began` is the zero of times; `by_wall`: operators are timed by the wall clock.
    """
    interval = f"{seconds(whole.low_s)} to {seconds(whole.high_s)}{_sure(whole.repeats)}"
    yield (
        f"the step {where} takes {seconds(whole.median_s)} ({interval}): "
        f"{whole.repeats} repeats after {whole.warm_ups} to warm up, ended by: {whole.ended}"
    )
    if found := whole.outliers:
        told = ", ".join(
            f"{seconds(timed.plain[i])} at {timed.plain_at[i] - began:.1f} s" for i in found[:MOST_TOLD]
        )
        more = f" and {len(found) - MOST_TOLD} more" if len(found) > MOST_TOLD else ""
        yield f"outliers of the step {where}, kept in its median: {told}{more}"
    if abs(change := moved(timed.plain)) > MOVED:
        what = "slower" if change > 0 else "faster"
        yield f"the step {where} became {percent(abs(change))} {what} while it was repeated"
    waited_s = sample(timed.waited).median_s if by_wall else 0.0
    if waited_s > LONG_WAIT * whole.median_s:
        yield (
            f"operators of the step {where} are timed by wall clock and look slower than they are: a step of "
            f"{seconds(whole.median_s)} waited another {seconds(waited_s)} for a processor"
        )


def gain_words(where: str, row: Mapping[str, Any]) -> str:
    """A technique's gain in a step, the number of repeats and why they ended, from a row of `techniques`."""
    outliers = f"; {counted(row['outliers'], 'outlier')} counted in it" if row["outliers"] else ""
    return (
        f"{row['technique']} makes the step {where} {row['gain']:.3g} times as fast "
        f"({row['gain_low']:.3g} to {row['gain_high']:.3g}{_sure(row['repeats'])}): {row['repeats']} repeats "
        f"in turn after {row['warm_ups']} to warm up, ended by: {row['ended']}{outliers}"
    )


def overhead_words(cost: Overhead, watching: str) -> str:
    """The overhead of watching a step."""
    return f"{watching} change the step {label(cost)} by {signed(cost.fraction)} ({_between(cost)})"


def limit_words(costs: Sequence[Overhead], limit: float) -> str:
    """Whether ranges cost more than a limit at any point, and whether the pairs of steps are sure of it."""
    worst, widest = (max(costs, key=attrgetter(name)) for name in ("fraction", "high"))
    side = "above" if worst.fraction > limit else "within"
    told = f"ranges cost {percent(worst.fraction)} of a step, {side} {percent(limit)}"
    if worst.low > limit or widest.high <= limit:
        return f"{told} ({_between(worst if worst.low > limit else widest)})"
    return (
        f"{told}, which is not certain: in {label(widest)} they change it by {_between(widest)}; more "
        "--repeats, or a machine with nothing else to do, narrow this"
    )


def _between(cost: Overhead) -> str:
    """The interval of an overhead."""
    return f"{signed(cost.low)} to {signed(cost.high)}{_sure(cost.pairs)}"


def _sure(repeats: int) -> str:
    """What an interval of a median is of: few repeats have none at 95 %, but a smallest and a largest."""
    return " at 95 %" if repeats >= KNOWN_FROM else f", of all {repeats}"


def compiled_words(made: Compilation) -> str:
    """Compile time, graphs and graph breaks."""
    pieces = f"{made.graphs} graph{'s' if made.graphs != 1 else ''}"
    again = f"{made.recompilations} recompilations" if made.recompilations else "no recompilation"
    broken = f"; broken by: {'; '.join(made.breaks)}" if made.breaks else ""
    took = f"compiling the step {label(made)} took {made.seconds:.1f} s, which no measured time includes"
    return f"{took}: {pieces}, {again}{broken}"


def attention_words(used: str, asked: str, attended: Sequence[str], why_separate: str) -> str:
    """The implementation of attention; `used` is its name in transformers."""
    if not used:
        return "the model has no attention"
    if used == "eager":
        why = "as asked" if asked != AUTO else f"the model {why_separate}"
        return f"attention ran as separate kernels, its scores in memory: {why}"
    if not attended:
        return "attention: the traces show no operation of it, as where a compiler has decomposed it"
    return f"attention was computed by: {', '.join(attended)}"


def attributed_words(found: Attributed, device: str) -> str:
    """The share of a traced step attributed to operators."""
    what = "kernels" if device.startswith("cuda") else "operations"
    if not found.of_s:
        return (
            f"torch.profiler recorded no {what} of the step {label(found)}, so none has an operator; on CUDA "
            "it records none under nsys or ncu, or where the driver does not let it"
        )
    inside, beside = (part / found.of_s for part in (found.in_operators_s, found.in_framework_s))
    return (
        f"of the {what} of the step {label(found)}, {seconds(found.of_s)}, {percent(inside)} belong to "
        f"operators and {percent(beside)} to what the framework does beside them (positions, rotary tables, "
        "masks, parts of heads, constant factors)"
    )


def unrecorded_words(where: str, missing: int) -> str:
    """That a trace lacks kernels."""
    return (
        f"the trace of the step {where} lacks {counted(missing, 'kernel')}, which CUPTI lost each time: the "
        "kernels and shares of the step are incomplete, times by CUDA events are not"
    )


def unfused_words(
    where: str, rows: Sequence[dict[str, Any]], packages: Mapping[str, str], times: Mapping[str, float]
) -> Iterator[str]:
    """Operators that ran as many operations although the prediction is for a fused kernel.

    `rows` are a step's rows of the table `kernels`; `packages` are those with kernels of ranges; `times` are
    the executions of each range's operators in a step.
    """
    for name, package in packages.items():
        each = sum(row["count"] for row in rows if row["operator"] == name) / times[name]
        if each > 1 and not (package and find_spec(package)):
            why = (
                f"{package}, which has one kernel for it, is not installed" if package else "no kernel known"
            )
            yield f"{name} ran as {each:.0f} operations in the step {where}: {why}"
