"""How far is the data-sheet floor from times worked out by hand, and what is the difference made of?

Prompt and context are 2048 tokens, bf16. By hand: a prefill is the FLOP of the layers' matrices on every
token, of causal attention and of the vocabulary on the last token, over the peak; a decode step is the bytes
of the weights that it multiplies by and of the cache, over the bandwidth. The program sums operators, each at
its own limit, so its times are longer by terms that are listed.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from hwspecs import load_device
from roofline.ledger import ledger, totals
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from workloads.catalogue import load_model
from workloads.phases import decode, operators, parameters

TABLE = Path(__file__).with_name("floors.csv")
TOKENS = 2048
WAITS = {  # operators of a prefill that wait for memory longer than they compute
    "embedding": "memory: embedding rows",
    "layers.attention.kv_append": "memory: new keys and values",
    "lm_head": "memory: weights of the vocabulary",
}
FAULTS = {  # what other tools have been found to count wrong: the test that would notice it here
    "KV traffic by query heads": "test_kv_traffic_is_by_kv_heads_not_by_query_heads",
    "vocabulary projection at one FLOP per multiply-add": "test_a_multiply_add_is_two_flop_in_the_head_too",
    "embedding costed as a matrix product": "test_an_embedding_is_a_gather_not_a_product",
    "vocabulary projection on every prompt token": "test_only_the_last_position_meets_the_vocabulary",
    "KV cache rewritten with each token": "test_a_decode_step_writes_one_token_to_the_cache",
    "MoE FLOP ignoring top-k": "test_a_token_multiplies_by_its_chosen_experts_only",
    "GiB taken for GB": "test_a_gigabyte_is_1e9_bytes",
    "decode below the physical floor": "test_decode_moves_no_less_than_weights_and_cache",
    "gated MLP counted as two matrices": "test_a_gated_mlp_has_three_matrices",
}


def compared() -> list[dict[str, Any]]:
    """Every time of the table: the reference, by hand, predicted, and the terms between the last two."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {"model": row["model"], "device": row["device"], "batch": int(row["batch"]), **found}
        for row in rows
        for found in (_prefill(row), _decode(row))
    ]


def _prefill(row: dict[str, str]) -> dict[str, Any]:
    model, device, batch = load_model(row["model"]).model, load_device(row["device"]), int(row["batch"])
    prediction = predict(Scenario(model, "prefill", batch, TOKENS), device)
    peak = prediction.ceilings.matrix_flop_per_s("bf16")
    parts = {one.name: one for one in operators(model, decode(1, 1))}
    embedding, head = parts["embedding"].parameters(), parts["lm_head"].parameters()
    matrices = sum(o.parameters() for o in parts.values() if o.operator.kind == "gemm") - head
    block = model.layers[0].blocks[0]
    pairs = TOKENS * (TOKENS + 1) / 2
    attention = 4 * len(model.layers) * block.heads * block.head_dim * pairs
    assert matrices + head + embedding < parameters(model)  # the rest are norms
    by_hand = batch * (2 * matrices * TOKENS + 2 * head + attention) / peak
    terms = {
        "other units than the matrix units": sum(
            r.count * (r.times.compute_s - r.work.matrix_flops / peak) for r in prediction.rows
        ),
        **dict.fromkeys((*WAITS.values(), "memory: norms, sampling"), 0.0),
    }
    for r in prediction.rows:
        waits = WAITS.get(r.name, "memory: norms, sampling")
        terms[waits] += r.count * max(0.0, r.times.memory_s - r.times.compute_s)
    return _row("prefill", row["prefill_ms"], by_hand, prediction, terms)


def _decode(row: dict[str, str]) -> dict[str, Any]:
    model, device, batch = load_model(row["model"]).model, load_device(row["device"]), int(row["batch"])
    prediction = predict(Scenario(model, "decode", batch, context=TOKENS), device)
    rate = prediction.ceilings.dram_byte_per_s
    items = ledger(prediction)
    gathered = sum(i["total_bytes"] for i in items if i["kind"] == "embedding")
    rows, sums = sum(i["total_bytes"] for i in items if i["tensor"] == "rows"), totals(items)
    table = next(o.parameters() for o in operators(model, decode(1, 1)) if o.name == "embedding")
    cache = batch * TOKENS * sum(2 * b.kv_heads * b.head_dim * 2 for b in (x.blocks[0] for x in model.layers))
    by_hand = (2 * (parameters(model) - table) + cache) / rate
    terms = {
        "embedding rows read and written": gathered / rate,
        "keys and values of the new token": sums["kv_write"] / rate,
        "inputs and outputs of operators": (sums["input"] + sums["output"] - (gathered - rows)) / rate,
        "operators at their compute limit": sum(
            r.count * max(0.0, r.times.compute_s - r.times.memory_s) for r in prediction.rows
        ),
    }
    return _row("decode", row["decode_ms"], by_hand, prediction, terms)


def _row(
    phase: str, reference_ms: str, by_hand_s: float, prediction: Prediction, terms: dict[str, float]
) -> dict[str, Any]:
    return {
        "phase": phase,
        "reference_ms": reference_ms,  # as printed: its digits say how exact it is
        "by_hand_s": by_hand_s,
        "predicted_s": prediction.time_s(),
        "deviation": prediction.time_s() * 1e3 / float(reference_ms) - 1,
        "terms_s": terms,
        "unexplained_s": prediction.time_s() - by_hand_s - sum(terms.values()),
    }


def page(rows: list[dict[str, Any]]) -> str:
    """The table and its terms as Markdown."""
    text = ["# Conformance", "", *(__doc__ or "").strip().splitlines()[2:], ""]
    text += ["Times in ms. `python benchmarks/conformance.py --write docs/conformance.md` wrote it.", ""]
    text += ["| model | device | batch | phase | reference | by hand | predicted | deviation |"]
    text += ["| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |"]
    for r in rows:
        ours = " | ".join(f"{r[name] * 1e3:.4g}" for name in ("by_hand_s", "predicted_s"))
        who = f"{r['model']} | {r['device']} | {r['batch']} | {r['phase']}"
        text.append(f"| {who} | {r['reference_ms']} | {ours} | {r['deviation']:+.2%} |")
    text += ["", "What lies between by hand and predicted, in microseconds:", ""]
    for phase in ("prefill", "decode"):
        text += [*_terms([r for r in rows if r["phase"] == phase], phase), ""]
    text += ["## Counting mistakes of other tools", ""]
    text += [
        "Each has a test in `tests/workloads/test_faults.py`.",
        "",
        "| mistake | test |",
        "| --- | --- |",
    ]
    text += [f"| {what} | `{test}` |" for what, test in FAULTS.items()]
    return "\n".join(text) + "\n"


def _terms(rows: list[dict[str, Any]], phase: str) -> list[str]:
    names = list(rows[0]["terms_s"])
    text = [f"| {phase} | {' | '.join(names)} | unexplained |", "| --- |" + " ---: |" * (len(names) + 1)]
    for r in rows:
        terms = " | ".join(f"{r['terms_s'][name] * 1e6:.4g}" for name in names)
        rest = f"{abs(r['unexplained_s']) * 1e6:.0f}"
        text.append(f"| {r['model']}, {r['device']}, batch {r['batch']} | {terms} | {rest} |")
    return text


def main() -> None:
    """Print the page, write it, or print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, help="write the page here")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = compared()
    if options.json:
        print(json.dumps({"rows": rows, "faults": FAULTS}, indent=1))
    elif options.write:
        options.write.write_text(page(rows), encoding="utf-8")
    else:
        print(page(rows), end="")


if __name__ == "__main__":
    main()
