"""Knowledge distillation."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.catalogue import load_model
from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import with_fewer_layers


@dataclass(frozen=True)
class Distillation(Technique):
    """A smaller student, trained on the model's output, replaces it."""

    name = "distillation"
    aliases = ("student", "distilbert", "minillm", "smaller-model")
    category = "knowledge distillation"
    paper = "DistilBERT arXiv:1910.01108; MiniLLM arXiv:2306.08543"
    removes = "the model: the student does all the work"
    adds = "nothing in inference"
    needs = "a trained student"
    quality = "retrained"
    slot = "which model answers"

    student: str = parameter(
        "half", "the model that answers; half: the same with half its layers (DistilBERT)"
    )

    def apply(self, schedule: Schedule) -> Schedule:
        """The student reads the same prompt and writes as many tokens."""
        if self.student == "half":
            return with_fewer_layers(schedule, 0.5)
        student = load_model(self.student).model
        return schedule.with_model(lambda _: student)
