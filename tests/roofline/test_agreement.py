"""Every way to ask about one request gives one answer: commands, files and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from roofline import api
from workloads.descriptor import SPLITS

# A dense model in 8 bits, experts in the format that they are published in, latent attention, a technique.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dense": ("Llama-3.3-70B", "h100", {"tp": 2, "weights": "fp8", "activations": "fp8", "kv": "fp8"}),
    "experts": ("gpt-oss-120b", "b200", {"expert_weights": "mxfp4"}),
    "narrow experts": (
        "Qwen3-30B-A3B",
        "b200",
        {"expert_weights": "nvfp4", "expert_activations": "nvfp4", "kv": "fp8"},
    ),
    "latent": ("DeepSeek-V3", "b200", {"tp": 8, "weights": "fp8_block", "activations": "fp8"}),
    "spread": ("DeepSeek-V3", "b200", {"tp": 8, "ep": 8, "weights": "fp8_block", "activations": "fp8"}),
    "staged": ("Llama-3.3-70B", "h100", {"tp": 2, "pp": 2}),
}
SIZES = {"batch": 1, "prompt": 1500, "output": 64}
SAME = ("weights", "activations", "kv", "expert_activations")
FILE = {"expert_weights": "experts", **{name: name for name in SAME}}
TIMES = ("ttft_s", "tpot_s")


@pytest.mark.parametrize(
    ("case", "fidelity", "engine"),
    [
        ("dense", "datasheet", "none"),
        ("dense", "calibrated", "vllm"),
        ("experts", "datasheet", "vllm"),
        ("narrow experts", "datasheet", "none"),
        ("narrow experts", "calibrated", "vllm"),
        ("latent", "datasheet", "none"),
        ("spread", "datasheet", "none"),
        ("staged", "datasheet", "none"),
    ],
)
def test_one_request_takes_the_same_however_it_is_asked(
    case: str, fidelity: str, engine: str, tmp_path: Path
) -> None:
    model, device, asked = CASES[case]
    around = {"engine": engine, "fidelity": fidelity}
    one = api.predict(model, device, **around, **asked, **SIZES).totals()
    formats = {"weights": "bf16"} | {name: asked[key] for key, name in FILE.items() if key in asked}

    baseline = api.whatif(model, device, **around, **asked, **SIZES).baseline.totals()
    assert baseline == one

    splits = {split: asked.get(short, 1) for short, split in zip(("tp", "ep", "pp"), SPLITS, strict=True)}
    lists = {**splits, "dtypes": [formats], "engines": [engine]}
    alone = api.sweep(model, device, fidelity=fidelity, **lists, **SIZES).iloc[0]
    both = {**lists, **SIZES, "batch": [1, 2]}  # several sizes are evaluated as arrays
    first = api.sweep(model, device, fidelity=fidelity, **both).iloc[0]
    for point in (alone, first):
        assert [point[name] for name in TIMES] == pytest.approx([one[name] for name in TIMES], rel=1e-9)
        assert [point[name] for name in ("mfu", "mbu", "memory_bytes", "energy_j")] == pytest.approx(
            [one[name] for name in ("mfu", "mbu", "memory_bytes", "energy_j")], rel=1e-9
        )

    file = tmp_path / "same.yaml"
    sizes = "".join(f"{name}: {value}\n" for name, value in {**SIZES, **splits}.items())
    words = ", ".join(f"{name}: {value}" for name, value in formats.items())
    file.write_text(f"schema: 1\nname: same\nmodel: {model}\n{sizes}dtypes: {{{words}}}\n")
    assert api.predict(str(file), device, **around).totals() == one

    if "pp" in asked:  # not served
        return
    served = api.serve(model, device, **around, **asked, users=1, requests=40, prompt=1500, output=64)
    row = served.table().iloc[0]
    # Steps are interpolated between predicted sizes; the prompt's is one of them (docs/serving.md).
    assert [row["ttft_mean_s"], row["tpot_mean_s"]] == pytest.approx([one[name] for name in TIMES], rel=0.01)
