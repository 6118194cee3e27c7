"""Knowledge distillation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workloads.catalogue import load_model
from workloads.schedule import Schedule
from workloads.techniques.base import STRUCTURE, Technique, parameter

if TYPE_CHECKING:
    from workloads.model import Model


@dataclass(frozen=True)
class Distillation(Technique):
    """A smaller student, trained on what the model says, answers in its place."""

    name = "distillation"
    aliases = ("student", "distilbert", "minillm", "smaller-model")
    level = "model"
    category = "knowledge distillation"
    paper = "DistilBERT arXiv:1910.01108; MiniLLM arXiv:2306.08543"
    removes = "the model: the student does all the work"
    adds = "nothing in inference"
    needs = "a trained student"
    quality = "retrained"
    slot = "which model answers"
    order = STRUCTURE

    student: str = parameter(
        "half", "the model that answers; half: the same with every second layer (DistilBERT)"
    )

    def apply(self, schedule: Schedule) -> Schedule:
        """The student reads the same prompt and writes as many tokens."""
        if self.student == "half":
            return schedule.with_model(_half)
        student = load_model(self.student).model
        return schedule.with_model(lambda _: student)


def _half(model: Model) -> Model:
    return replace(model, name=f"half of {model.name}", stack=replace(model.stack, layers=model.layers[::2]))
