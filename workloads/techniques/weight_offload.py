"""Weight offloading: ZeRO-Inference."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.streaming import Streamed, streamed_weights
from workloads.work import Role


@dataclass(frozen=True)
class WeightOffload(Technique):
    """Weights that do not fit stay in the host's memory and are streamed in for every pass."""

    name = "weight-offloading"
    aliases = ("offloading", "weight-offload", "zero-inference", "layer-streaming")
    category = "offloading"
    paper = "ZeRO-Inference arXiv:2207.00032"
    removes = "weights from device memory"
    adds = "their transfer over the host link or from disks in every pass, beside the computation"
    needs = "host memory; pinned buffers and prefetch"
    quality = "exact"
    served = "vLLM, SGLang"
    slot = "where weights are kept"

    share: float = parameter(1.0, "share of the layers' weights outside device memory", low=0, high=1)
    disk: float = parameter(0.0, "share of those that lie on the host's disks", low=0, high=1)
    devices: int = parameter(
        1,
        "devices that fetch a part each and gather the rest from the others (ZeRO-Inference)",
        low=1,
        high=1024,
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be a link to the host, and disks where they are asked for."""
        return (target.no_disk() if self.disk else None) or target.no_host()

    def apply(self, schedule: Schedule) -> Schedule:
        """Prefetched: transfers and computation of an operator overlap.

        A weight is read from device memory after it came.
        """
        edit = Streamed(
            "offloaded weights",
            (Role.WEIGHT,),
            host=self.share / self.devices,
            disk=self.share * self.disk,  # disks serve all devices together
            wire=self.share * (1 - 1 / self.devices),
        )
        return schedule.with_change(streamed_weights(edit, 1 - self.share))
