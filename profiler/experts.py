"""How transformers runs routed experts: grouped products, batched ones, or a loop over experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.subject import routes_tokens
from specfiles.errors import InputError, choose

if TYPE_CHECKING:
    from profiler.subject import Subject
    from workloads.model import Model

AUTO, GROUPED, BATCHED = "auto", "grouped_mm", "batched_mm"
CHOICES = (AUTO, GROUPED, BATCHED, "eager")


def check_experts(name: str, model: Model) -> None:
    """InputError where an implementation is unknown or a model has no routed experts."""
    if name not in CHOICES:
        raise choose(name, list(CHOICES), "experts")
    if name != AUTO and not routes_tokens(model):
        raise InputError(f"{model.name} has no routed experts; leave --experts out.")


def set_experts(subject: Subject, name: str) -> None:
    """Select the implementation of a loaded model. InputError where its code has only one of its own."""
    if name != AUTO and not subject.chooses_experts:
        raise InputError(
            f"transformers runs the experts of {subject.loaded.model.name} in one way only; "
            "leave --experts out."
        )
    subject.experts = name


def experts_in(subject: Subject, phase: str) -> str:
    """The implementation in steps of a phase; empty where the model's code has one of its own.

    By default that of transformers' `generate`: grouped products, and on a GPU batched ones in decode.
    """
    if not subject.chooses_experts:
        return ""
    if subject.experts != AUTO:
        return subject.experts
    from transformers import GenerationMixin

    switches = subject.device != "cpu" and hasattr(GenerationMixin, "_optimize_model_for_decode")
    return BATCHED if switches and phase == "decode" else GROUPED


def use_experts(subject: Subject, phase: str) -> None:
    """Let the next steps run in the implementation of a phase."""
    if name := experts_in(subject, phase):
        subject.network.config._experts_implementation_internal = name


def experts_words(subject: Subject, phases: list[str]) -> str:
    """Which implementations ran the experts; empty without any."""
    if not routes_tokens(subject.loaded.model):
        return ""
    used = dict.fromkeys((experts_in(subject, phase) or "a loop of the model's own code") for phase in phases)
    told = f"experts ran as {' and '.join(used)}"
    if BATCHED in used:
        told += (
            f"; {BATCHED} first copies the matrices of each token's experts, which predictions do not count "
            f"(--experts {GROUPED} does not copy)"
        )
    return told
