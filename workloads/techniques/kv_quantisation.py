"""KV-cache quantisation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.dtypes import FORMATS, bytes_per_element
from workloads.schedule import Schedule
from workloads.step import Setting
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.conditions import no_cache


@dataclass(frozen=True)
class KvQuantisation(Technique):
    """Keys and values are stored in few bits and dequantised when they are read."""

    name = "kv-quantisation"
    aliases = ("kv-cache-quantisation", "kvquant")
    variants = {
        "kivi": {"format": "int2_g32"},
        "kv8": {"format": "int8"},
        "kv-fp8": {"format": "fp8"},
        "kv4": {"format": "int4"},
        "kv2": {"format": "int2"},
    }
    category = "quantisation"
    paper = "KIVI arXiv:2402.02750; KVQuant arXiv:2401.18079"
    removes = "bytes of the KV cache, in memory and in every decode step"
    adds = "dequantisation inside the attention kernel; quantisation when keys and values are appended"
    needs = "an attention kernel that reads the format"
    quality = "lossy"
    served = "vLLM, SGLang, TensorRT-LLM (8 bits)"
    slot = "the format of the KV cache"

    format: str = parameter(
        "int4",
        "format of keys and values (KVQuant: 4 bits and fewer, scales of whole channels and tokens)",
        among=("fp8", "int8", "int4", "int2", "int2_g32", "bf16"),
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be a cache in a wider format."""
        if (reason := no_cache(schedule)) is not None:
            return reason
        kv = schedule.main.setting.precision.kv
        if bytes_per_element(kv) < FORMATS[self.format][0] / 8:
            return f"the cache in {kv} is narrower than {self.format} already"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """The format of the cache, in every pass and in memory."""

        def narrow(setting: Setting) -> Setting:
            return replace(setting, precision=replace(setting.precision, kv=self.format))

        return schedule.with_setting(narrow)
