"""Whose kernels an engine runs where its own source takes others than those measured in it."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import numpy as np

from hwspecs.calibrations import measured_backends
from roofline.physics.columns import of_operator
from roofline.physics.kernels import Kernels
from workloads.operators import GroupedGemm

if TYPE_CHECKING:
    from roofline.physics.base import Gpu
    from roofline.physics.kernels import KernelTime
    from workloads.operators import Operator

# Tables' names of experts in 4 bits beside activations of 16: integers and NVFP4, and MXFP4.
INT4, MXFP4 = "int4_wo", "w4a16_mxfp4"


class EngineLibraries(Kernels):
    """The kernels that an engine, `backend`, runs on NVIDIA's GPUs: its library's, and others it takes."""

    def operator(self, operator: Operator) -> KernelTime | None:
        """As the engine runs it."""
        by = experts_by(self.backend, operator, self.gpu) if isinstance(operator, GroupedGemm) else ""
        if not by:
            return super().operator(operator)
        lent = copy(self)
        lent.named, lent.libraries = {"moe": by}, measured_backends()
        return Kernels.operator(lent, operator)


def experts_by(engine: str, operator: GroupedGemm, gpu: Gpu) -> str:
    """The library in which, or the kernel by whose name, the experts' kernels were measured; else "".

    vLLM multiplies 4 bits beside 16 by Marlin: NVFP4 (prepare_moe_fp4_layer_for_marlin), AWQ and GPTQ
    (check_moe_marlin_supports_layer). Tables have this kernel from SGLang, which copied it; what they have
    of vLLM is the Triton kernel that runs where Marlin does not take a layer's sizes. In MXFP4 vLLM takes
    Marlin for compute capabilities other than 9.0 to 10.x (oracle/mxfp4.py), and SGLang OpenAI's Triton
    kernels on other GPUs than data-centre Blackwells where experts are not spread (server_args.py), which
    were measured in vLLM.
    """
    found = of_operator(operator)
    if found is None:
        return ""
    experts, sizes = found[1], found[3]
    if (engine, experts) == ("vllm", INT4):
        return "sglang"
    if (engine, experts) == ("vllm", MXFP4) and gpu.generation not in (9, 10):
        return "marlin"
    if (engine, experts) == ("sglang", MXFP4) and gpu.generation < 10 and np.all(sizes["moe_ep"] == 1):
        return "vllm"
    return ""
