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
# What vLLM's oracles (oracle/unquantized.py, oracle/fp8.py) take on data-centre Blackwells, as in tables of
# 0.24; those of 0.19 and 0.22 have Triton's kernel, which was called without an oracle.
GENERATED = {
    "bfloat16": "vllm_unquantizedfusedmoe_flashinfer_trtllm_trtllmbf16experts",
    "fp8": "vllm_modeloptfp8moe_flashinfer_trtllm_trtllmfp8expertsmonolithic",
    "fp8_block": "vllm_fp8moe_flashinfer_trtllm_trtllmfp8expertsmonolithic",
}
# And on Hopper where experts are whole on each device; where they are spread it is FlashInfer's CUTLASS.
IN_BLOCKS = "vllm_fp8moe_triton_tritonexperts"


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
    were measured in vLLM. Of several kernels that were measured in vLLM, its oracles say which.
    """
    found = of_operator(operator)
    if found is None:
        return ""
    experts, whole = found[1], bool(np.all(found[3]["moe_ep"] == 1))
    if engine == "vllm":
        return _of_vllm(experts, whole, gpu)
    if (engine, experts) == ("sglang", MXFP4) and gpu.generation < 10 and whole:
        return "vllm"
    return ""


def _of_vllm(experts: str, whole: bool, gpu: Gpu) -> str:
    if experts == INT4:
        return "sglang"
    if experts == MXFP4:
        return "" if gpu.generation in (9, 10) else "marlin"
    if gpu.generation == 9 and experts == "fp8_block" and whole:
        return IN_BLOCKS
    return GENERATED.get(experts, "") if gpu.generation == 10 else ""
