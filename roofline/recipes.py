"""What the public recipes of published runs say, and the columns of their table do not.

aiconfigurator's silicon sample holds runs of InferenceX (github.com/SemiAnalysisAI/InferenceX): flags are in
its benchmarks/single_node/*.sh, splits in .github/configs/nvidia-master.yaml, both as of March 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SAMPLE = "silicon_ttft_ms"  # a column that only the sample has
NODE = 8  # devices of the nodes of these runs
# The only recipe of this model, device and format with this split is qwen3.5-fp8-b200-sglang-mtp.
DRAFTED = {"model": "Qwen3.5-397B-A17B", "gpu": "b200", "backend": "sglang", "dtype": "fp8"}
DRAFTED_SPLIT = {"tp": 4, "ep": 1}
# --random-range-ratio 0.8: lengths are even between that share of their names and all of it.
SHORTEST = 0.8
MEAN = (1 + SHORTEST) / 2
DRAFTS = 3  # --speculative-num-steps
# SGLang's first release with Qwen3.5, the image of the drafted runs (SGLANG_ENABLE_SPEC_V2 is not set).
# Nightly builds run its code up to the day on which products of the delta rule were joined (pull request
# 21019).
FIRST, CHANGED = "sglang 0.5.9", 20260320
HYBRID = {"model": "Qwen3.5", "backend": "sglang"}
# How many were kept is not in the table. 3.39 tokens a step, as 3 drafts with this chance yield, is what
# InferenceX measured later of this model's own drafts (golden_al_distribution/qwen3.5_mtp.yaml, thinking on).
ACCEPT = 0.892
# VLLM_MXFP4_USE_MARLIN=1 of gptoss_fp4_h{100,200}.sh; tables hold Marlin's kernel for experts of other sizes.
MARLIN = {"model": "gpt-oss", "gpu": "h100|h200", "backend": "vllm", "dtype": "fp4"}
# --scheduler-recv-interval of {qwen3.5,dsr1}_*_b200.sh; glm5_fp8_b200.sh and those of Hopper do not set it.
SELDOM = {"model": "Qwen3.5|DeepSeek-R1|DeepSeek-V3", "gpu": "b200|b300", "backend": "sglang"}
# Keys and values in fp8 (--kv-cache-dtype fp8_e4m3, kv_cache_config: dtype: fp8), where the model is narrow.
NARROW = {"dtype": "fp8|fp4"}
BLACKWELL = {"gpu": "b200|b300|gb200|gb300"}
NARROW_KV = (
    {"backend": "sglang", **BLACKWELL},
    {"backend": "sglang", "model": "Qwen3.5", "gpu": "h200"},
    {"backend": "trtllm", **BLACKWELL},
    {"backend": "trtllm", "model": "DeepSeek-R1|DeepSeek-V3", "gpu": "h200"},
    {"backend": "vllm", "model": "gpt-oss", **BLACKWELL},
    {"backend": "vllm", "model": "MiniMax-M2", "gpu": "h200"},
)
LENGTHS = (1024, 8192)  # of prompts and answers in these runs; rows of other lengths are not InferenceX's


def with_recipes(named: pd.DataFrame) -> pd.DataFrame:
    """The sample's rows with what their recipes say, where a column does not say it.

    poll_steps: polling interval of the request queue, in decode steps (--scheduler-recv-interval).
    kv_dtype: format of keys and values. experts_by: library of the experts' kernels. drafted, accept:
    tokens that are drafted in a step, and the chance that one is kept. release: the engine's, where it runs
    this model otherwise than later ones (`roofline.rollback`, `roofline.engine_kernels`). Prompts and answers
    get their mean length, where the table has the largest.
    A tp beyond a node is tp and ep multiplied: all such rows repeat the times of rows at tp 4, ep 4, which
    is the split of their recipe.
    """
    import numpy as np
    import pandas as pd

    busy = named["concurrency"] >= 16

    def are(told: dict[str, str]) -> Any:
        """Which rows are of a recipe: `a|b` are parts of a model's name, and values of other columns."""
        text = {name: named[name].astype(str).str.removesuffix("_sxm") for name in told}
        found = [
            text[name].str.contains(words) if name == "model" else text[name].isin(words.split("|"))
            for name, words in told.items()
        ]
        return np.logical_and.reduce(found)

    drafted = are(DRAFTED) & np.logical_and.reduce([named[n] == size for n, size in DRAFTED_SPLIT.items()])
    version = named.get("backend_version", pd.Series("", named.index)).fillna("").astype(str)
    built = pd.to_numeric(version.str.extract(r"(\d{8})", expand=False)).fillna(0)
    early = (version == "0.5.9") | version.str.startswith("nightly") & (built < CHANGED)
    narrow = are(NARROW) & np.logical_or.reduce([are(recipe) for recipe in NARROW_KV])
    said: dict[str, Any] = {
        "poll_steps": np.where(are(SELDOM), np.where(busy | (named["dtype"] == "fp4"), 30, 10), 1),
        "kv_dtype": np.where(narrow, "fp8", "bf16"),
        "experts_by": np.where(are(MARLIN), "marlin", ""),
        "drafted": np.where(drafted, DRAFTS, 0),
        "accept": np.where(drafted, ACCEPT, 0.0),
        "release": np.where(drafted | (are(HYBRID) & early), FIRST, ""),
    }
    divided = named["tp"] / named["ep"]
    beyond = (named["tp"] > NODE) & (named["ep"] <= divided)  # experts have no more devices than the layer
    tp = named["tp"].where(~beyond, divided)
    experts = named["moe_tp_size"].where(~beyond, tp / named["ep"])
    known = {name: named[name].where(named[name].notna(), said[name]) for name in said if name in named}
    random = named[["prompt", "output"]].isin(LENGTHS).all(axis=1)
    lengths = {name: (named[name] * MEAN).round().where(random, named[name]) for name in ("prompt", "output")}
    return named.assign(tp=tp, moe_tp_size=experts, **lengths, **(said | known))
