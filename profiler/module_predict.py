"""The prediction of a traced module: the same rows, totals and notes as for a described model."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from profiler.cli.options import needs_torch
from profiler.module_trace import trace
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from specfiles.errors import InputError, choose
from workloads.convention import convention
from workloads.dtypes import Precision
from workloads.phases import Setting

if TYPE_CHECKING:
    from hwspecs import Device
    from roofline.asked import Asked
    from roofline.ceilings import Fidelity

CONVENTIONS = ("eager", "flop-counter")  # a trace has every kernel: nothing more can be fused


def predict_module(target: str, asked: Asked, device: Device, fidelity: Fidelity) -> Prediction:
    """Trace `module:function` and predict its one pass.

    Sizes and formats are those of its inputs and weights. Raises InputError for a flag that would change
    them, and where the module cannot be traced.
    """
    given = [f.name for f in fields(asked) if f.name != "convention" and getattr(asked, f.name)]
    if given:
        raise InputError(
            f"--{given[0].replace('techniques', 'with')} does not go with --from-module: sizes and formats "
            f"are those of what {target} returns; change them there."
        )
    counted = asked.convention or "eager"
    if counted not in CONVENTIONS:
        raise choose(counted, list(CONVENTIONS), "convention of a traced module")
    needs_torch()
    found = trace(target, causal_exact=convention(counted).causal_exact)
    setting = Setting(Precision.of(found.dtype), convention(counted))
    made = predict(Scenario(found.model, "prefill", 1, 1, setting=setting), device, fidelity)
    return replace(made, ceilings=replace(made.ceilings, notes=(*made.ceilings.notes, *found.notes)))
