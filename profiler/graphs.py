"""A model's step as a CUDA graph: captured once, then replayed with one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from profiler.attending import masked_as_launched
from profiler.capturing import capturing
from profiler.instrument import instrumented
from profiler.kernel_times import launched_kernels, traced
from profiler.recorders import Trace
from profiler.subject import Step, greedy, out_of_memory
from specfiles.errors import InputError, reason

if TYPE_CHECKING:
    from profiler.recorders import Recorder
    from profiler.subject import Subject

WARM_UP = 3  # runs on the side, in which libraries choose kernels and set workspaces aside


def refuse_graphs(device: str) -> None:
    """An InputError where there are no CUDA graphs; asked before anything long is begun."""
    if not device.startswith("cuda"):
        raise InputError(
            f"--mode graph replays a CUDA graph, and the model would run on {device}; "
            "use --device cuda, or --mode eager or compile."
        )


class GraphedStep:
    """A step whose kernels are replayed. Its cache must have a fixed size (`subject.fixed_step`)."""

    def __init__(self, subject: Subject, run: Step, recorder: Recorder | None = None) -> None:
        """Capture a step, with ranges of `recorder` where one is given: they are heard while it is captured.

        Raises InputError where the step cannot be captured, as one that looks at its own results cannot.
        """
        import torch

        self.graph = torch.cuda.CUDAGraph()
        _aside(subject.device, run)
        try:
            with masked_as_launched():
                if recorder is None:
                    with capturing(self.graph, subject.device):
                        self.output = run(greedy)
                else:
                    with (
                        instrumented(subject, recorder, greedy) as watched,
                        capturing(self.graph, subject.device),
                    ):
                        self.output = run(watched.sampler)
        except Exception as error:  # torch names what may not be captured in many ways
            if out_of_memory(error):
                raise
            raise InputError(
                f"{subject.loaded.model.name} cannot be captured as a CUDA graph "
                f"({reason(error).rstrip('.')}); use --mode eager or compile."
            ) from None

    def __call__(self) -> Any:
        """Replay the step; what it computes is the same memory each time."""
        self.graph.replay()
        return self.output


def captured_kernels(
    subject: Subject, run: Step, heard: Callable[[Any], object] = lambda events: None
) -> list[tuple[str, str]]:
    """Name and operator of the kernels that a step launches, in order, from one traced run under ranges."""
    recorder = Trace()
    with instrumented(subject, recorder, greedy) as watched:
        events = traced(subject.device, lambda: run(watched.sampler))
    heard(events)
    return launched_kernels(events, recorder.names)


def _aside(device: str, run: Callable[..., Any]) -> None:
    """Run a step on a stream of its own, as must be done before it is captured."""
    import torch

    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            run(greedy)
    torch.cuda.current_stream(device).wait_stream(aside)
    torch.cuda.synchronize(device)
