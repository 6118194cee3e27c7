"""Profile a model in the processes of torchrun: a part each, merged by the first."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from profiler.ranks.arrivals import arrivals
from profiler.ranks.group import Group, Ranks, joined, when_stopped
from profiler.ranks.merge import merge, part_folder
from profiler.record import profile
from profiler.request import Request, head_of
from roofline.run import Run, create_run
from roofline.run_head import Head, Part
from specfiles.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def profile_ranks(request: Request, ranks: Ranks) -> Run | None:
    """Measure this process's part and, in the first process, return the merged run; None in the others.

    A process that fails or loses the others leaves an incomplete part; the first one then merges as well.
    Raises what `profile` raises.
    """
    begun = _begun(request, ranks)
    with joined(ranks, request.device) as group:
        _refused_together(group, request.out, begun)
        own = replace(
            request,
            out=part_folder(request.out, ranks.rank),
            meetings=partial(arrivals, group=group),
            together=group.all,
            progress=request.progress if ranks.first else _nothing,
        )
        finish = partial(merge, request.out, begun) if ranks.first else _nothing
        with when_stopped(finish):
            try:
                profile(own)
                group.meet()  # every part is written
            except BaseException as error:
                finish()
                if _alone(error):
                    raise InputError(
                        f"{request.out}: another process of the run ended early; what was measured is there."
                    ) from None
                raise
            return finish()


def _begun(request: Request, ranks: Ranks) -> Head:
    """The head of the run before measuring."""
    return head_of(request, weights="").replace(
        parts=[Part(rank=rank) for rank in range(ranks.count)],
        notes=[f"{ranks.count} ranks began; not merged yet: their parts are in rank0, rank1, ..."],
    )


def _refused_together(group: Group, out: Path, begun: Head) -> None:
    """Create the folder in the first process. Raises InputError in all processes where that fails."""
    reason: InputError | None = None
    if group.ranks.first:
        try:
            create_run(out, begun)
        except InputError as error:
            reason = error
    if not group.all(reason is None):
        raise reason or InputError(f"{out}: the first process could not make the run.")


def _alone(error: BaseException) -> bool:
    """Whether an error means that another process is gone; gloo has no error class of its own."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _nothing(*_: object) -> None:
    """Progress and end of all but the first process."""
