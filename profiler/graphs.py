"""A model's step as a CUDA graph: captured once, then replayed with one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from profiler.attending import masked_as_launched
from profiler.capturing import capturing
from profiler.forward import Step, greedy
from profiler.instrument import instrumented
from profiler.subject import out_of_memory
from specfiles.errors import InputError, reason

if TYPE_CHECKING:
    from profiler.recorders import Recorder
    from profiler.subject import Subject

WARM_UP = 3  # runs on a side stream, in which libraries select kernels and allocate workspaces


def refuse_graphs(device: str) -> None:
    """InputError where there are no CUDA graphs; checked before any long work."""
    if not device.startswith("cuda"):
        raise InputError(
            f"--mode graph replays a CUDA graph, and the model would run on {device}; "
            "use --device cuda, or --mode eager or compile."
        )


class GraphedStep:
    """A step replayed as a graph. Its cache must have a fixed size (`forward.fixed_step`)."""

    def __init__(self, subject: Subject, run: Step, recorder: Recorder | None = None) -> None:
        """Capture a step; ranges of `recorder`, if given, are recorded during the capture.

        Raises InputError where the step cannot be captured, for example because it reads its own results.
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
        except Exception as error:  # torch raises many kinds for what cannot be captured
            if out_of_memory(error):
                raise
            raise InputError(
                f"{subject.loaded.model.name} cannot be captured as a CUDA graph "
                f"({reason(error).rstrip('.')}); use --mode eager or compile."
            ) from None

    def __call__(self) -> Any:
        """Replay the step; its results are in the same memory each time."""
        self.graph.replay()
        return self.output


def _aside(device: str, run: Callable[..., Any]) -> None:
    """Run a step on a side stream, as capturing requires beforehand."""
    import torch

    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            run(greedy)
    torch.cuda.current_stream(device).wait_stream(aside)
    torch.cuda.synchronize(device)
