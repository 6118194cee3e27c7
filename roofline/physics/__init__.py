"""The kernel models of the calibrated fidelity: one file per kind of kernel, every term with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specfiles.errors import choose

if TYPE_CHECKING:
    from roofline.physics.model import KernelModel


def models() -> dict[str, KernelModel]:
    """The model of each operator kind; a new one is one entry here."""
    from roofline.physics.collectives import CollectiveModel
    from roofline.physics.decode import DecodeModel
    from roofline.physics.elementwise import ElementwiseModel
    from roofline.physics.gemm import GemmModel
    from roofline.physics.mla import MlaDecodeModel, MlaPrefillModel
    from roofline.physics.moe import MoeModel
    from roofline.physics.prefill import EncoderModel, PrefillModel
    from roofline.physics.scan import ConvolutionModel, DeltaModel

    known: list[KernelModel] = [
        GemmModel(),
        PrefillModel(),
        EncoderModel(),
        DecodeModel(),
        MlaPrefillModel(),
        MlaDecodeModel(),
        MoeModel(),
        CollectiveModel(),
        ElementwiseModel(),
        DeltaModel(),
        ConvolutionModel(),
    ]
    return {kind: model for model in known for kind in model.kinds}


def model_of(kind: str) -> KernelModel:
    """The model of an operator kind; an InputError lists what exists."""
    known = models()
    if kind not in known:
        raise choose(kind, sorted(known), "kernel model for the operator kind")
    return known[kind]
