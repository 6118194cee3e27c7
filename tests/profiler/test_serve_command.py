"""`roofline serve` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import re
from functools import partial
from pathlib import Path

import pytest

from hwspecs import load_device
from profiler.cli.serve import command
from roofline.predict import predict
from roofline.scenario import Scenario
from specfiles.errors import InputError
from tests.profiler.conftest import printed_by
from workloads.catalogue import load_model

run = partial(printed_by, command)
SHORT = ("--hw", "h100", "--prompt", "200", "--output", "20", "--requests", "40")


def test_a_row_for_each_batching_and_rate() -> None:
    data = json.loads(
        run("Llama-3.1-8B", *SHORT, "--rate", "1,5", "--batching", "continuous,chunked", "--format", "json")
    )
    assert [(row["batching"], round(row["rate_per_s"], 6)) for row in data["rows"]] == [
        ("continuous", 1), ("continuous", 5), ("chunked", 1), ("chunked", 5),
    ]  # fmt: skip
    assert data["devices"] == 1
    assert all(row["ttft_p99_s"] >= row["ttft_p50_s"] > 0 for row in data["rows"])


def test_limits_without_a_rate_ask_for_the_highest() -> None:
    words = ("Llama-3.1-8B", *SHORT, "--slo", "ttft=200ms,tpot=10ms")
    (row,) = json.loads(run(*words, "--format", "json"))["rows"]
    assert row["within_limits"] >= 0.9
    assert row["tpot_p90_s"] <= 0.010
    assert "in time: TTFT at most 200 ms, TPOT at most 10.0 ms." in run(*words)


def test_a_search_in_runs_that_are_too_short_says_how_many_requests_are_enough() -> None:
    """As many as make the run 20 times as long as a request stays, and at least 2,000."""
    words = ("Llama-3.1-8B", "--hw", "h100", "--prompt", "200", "--output", "20")
    limits = ("--slo", "ttft=200ms,tpot=10ms")
    few = run(*words, *limits, "--requests", "40")
    assert re.search(r"With 40 requests a run is too short .* about (\d+) are enough", few.replace("\n", " "))
    assert json.loads(run(*words, *limits, "--requests", "40", "--format", "json"))["enough"] >= 2000
    assert "are enough" not in run(*words, "--rate", "5", "--requests", "40")
    assert json.loads(run(*words, *limits, "--format", "json"))["enough"] is None


def test_a_shipped_workload_with_traffic_is_all_that_is_needed() -> None:
    rows = list(
        csv.DictReader(io.StringIO(run("chat", "--hw", "h100", "--requests", "30", "--format", "csv")))
    )
    assert [round(float(row["rate_per_s"]), 6) for row in rows] == [1, 4, 16]


def test_a_workload_lends_its_traffic_to_another_model() -> None:
    words = ("Qwen3-8B", "--workload", "chat", "--hw", "h100", "--requests", "30", "--format", "json")
    data = json.loads(run(*words))
    assert data["model"] == "Qwen3-8B"
    assert len(data["rows"]) == 3


def test_a_recorded_trace_is_served_as_it_came_or_at_another_rate(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,prompt,output\n0,100,10\n1,200,5\n2,300,1\n")
    words = ("Llama-3.1-8B", "--hw", "h100", "--trace", str(trace), "--format", "json")
    assert json.loads(run(*words))["rows"][0]["rate_per_s"] == 1.0
    assert json.loads(run(*words, "--rate", "4"))["rows"][0]["rate_per_s"] == pytest.approx(4)
    (row,) = json.loads(run("chat", *words[1:]))["rows"]  # whose file says other rates
    assert row["rate_per_s"] == 1.0


def test_more_devices_and_readers_are_counted() -> None:
    words = ("Llama-3.1-70B", *SHORT[2:], "--hw", "dgx-h100", "--tp", "4", "--readers", "1", "--rate", "2")
    assert json.loads(run(*words, "--format", "json"))["devices"] == 8
    assert "8 x H100-SXM5-80GB (1 engine and 1 reader of tp 4), weights bf16, " in run(*words)


def test_a_model_that_is_published_in_narrower_formats_is_said_to_be() -> None:
    words = ("gpt-oss-20b", *SHORT[2:], "--hw", "h200", "--rate", "2")
    assert "published weights are narrower (bf16, experts mxfp4): --weights checkpoint." in run(*words)
    assert "narrower" not in run(*words, "--expert-weights", "mxfp4")
    asked = run(*words, "--weights", "checkpoint")
    assert "narrower" not in asked
    assert "weights bf16, experts mxfp4" in asked


def test_a_step_takes_as_many_tokens_as_the_engine_by_default() -> None:
    words = ("Llama-3.1-8B", *SHORT[2:], "--rate", "2", "--batching", "chunked", "--engine", "vllm")
    given = run(*words, "--hw", "a100", "--budget", "2048", "--format", "json")
    chosen = run(*words, "--hw", "a100", "--format", "json")
    assert json.loads(given)["rows"] == json.loads(chosen)["rows"]
    assert "up to 2048 new tokens, vLLM's default for A100-SXM4-80GB" in chosen
    assert "new tokens" not in given
    assert "leave of 90 % of the memory" in given
    assert "take 90 % of what" in run(*words[:-1], "trtllm", "--hw", "a100", "--budget", "2048")
    assert "new tokens" not in run("Llama-3.1-8B", *SHORT, "--rate", "2", "--batching", "static")


def test_more_devices_than_a_node_has_are_said_to_be_several_nodes() -> None:
    words = ("Llama-3.1-70B", *SHORT[2:], "--hw", "dgx-h100", "--tp", "4", "--rate", "2")
    *_, note = json.loads(run(*words, "--readers", "2", "--format", "json"))["notes"]
    assert note == "12 devices take 2 DGX-H100 of 8 each, and caches are sent over the network between nodes"
    assert "12 devices take 2 DGX-H100 of 8 each." in run(*words, "--engines", "3")
    assert "DGX-H100 of 8" not in run(*words, "--engines", "2")


def test_a_batch_in_parts_is_said_to_wait_for_the_largest() -> None:
    words = ("Qwen3-30B-A3B", *SHORT[2:], "--hw", "dgx-h100", "--rate", "2")
    assert "each of 4 devices runs the attention of its own" in run(*words, "--ep", "4")
    assert "attention of its own" not in run(*words, "--tp", "4", "--ep", "4")


def test_constants_of_another_device_are_named() -> None:
    asked = ("Llama-3.1-8B", "--hw", "mi300x", *SHORT[2:], "--rate", "1", "--fidelity", "calibrated")
    assert "kernel constants transferred from" in run(*asked)


def test_a_technique_that_shortens_prompts_is_refused() -> None:
    words = ("Mixtral-8x7B", *SHORT[2:], "--hw", "h200", "--ep", "4", "--rate", "2")
    with pytest.raises(InputError, match="prompts as they are sent"):
        run(*words, "--with", "varlen-packing")


def test_an_hour_of_all_devices_is_paid_by_the_tokens_of_an_hour() -> None:
    words = ("Llama-3.1-70B", *SHORT[2:], "--hw", "dgx-h100", "--tp", "4", "--engines", "2", "--rate", "1,4")
    found = json.loads(run(*words, "--price", "3.6", "--format", "json"))
    assert found["devices"] == 8
    for row in found["rows"]:
        assert row["usd_per_million_tokens"] * row["tokens_per_s"] == pytest.approx(8 * 3.6 / 3600 * 1e6)
    assert found["rows"][0]["usd_per_million_tokens"] > found["rows"][1]["usd_per_million_tokens"]
    assert "USD per million tokens" in " ".join(run(*words, "--price", "3.6").split())
    assert "USD" not in run(*words)


def test_the_engines_own_time_per_step_is_added_to_every_token() -> None:
    def tpot(*words: str) -> float:
        found = run("Llama-3.1-8B", *SHORT, "--rate", "0.1", "--format", "json", *words)
        return float(json.loads(found)["rows"][0]["tpot_p50_s"])

    assert tpot("--step-overhead", "0.002") - tpot() == pytest.approx(0.002, rel=1e-3)


@pytest.mark.parametrize("readers", [(), ("--readers", "1")])
def test_answers_of_one_token_take_their_prompts_alone(readers: tuple[str, ...]) -> None:
    words = ("Llama-3.1-8B", "--hw", "h100", "--prompt", "200", "--output", "1", "--requests", "9", *readers)
    (row,) = json.loads(run(*words, "--rate", "0.01", "--format", "json"))["rows"]
    h100, model = load_device("h100_sxm"), load_model("Llama-3.1-8B").model
    alone = predict(Scenario(model, "prefill", 1, 200), h100).totals()["ttft_s"]
    assert row["ttft_p50_s"] == pytest.approx(alone, rel=0.01)
    assert row["latency_p50_s"] == row["ttft_p50_s"]
    assert row["tpot_p50_s"] is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("Llama-3.1-8B", *SHORT), "give --rate"),
        (("Llama-3.1-8B", *SHORT, "--rate", "fast"), "requests per second"),
        (("Llama-3.1-8B", *SHORT, "--rate", "-1"), "requests per second"),
        (("Llama-3.1-8B", *SHORT, "--rate", "1", "--batching", "chunky"), "chunked"),
        (("Llama-3.1-8B", *SHORT, "--rate", "1", "--slo", "throughput=3"), "no limit of it"),
        (("Llama-3.1-8B", *SHORT, "--rate", "1", "--max-batch", "0"), "max-batch is 0"),
        (("Llama-3.1-8B", *SHORT, "--rate", "1", "--batching", "chunked", "--budget", "9"), "leaves a full"),
        (("Llama-3.1-8B", *SHORT, "--rate", "1", "--batching", "mixed", "--budget", "9"), "leaves a full"),
        (("Llama-3.1-8B", *SHORT, "--users", "1", "--batching", "chunked", "--max-batch", "8192"), "a full"),
        (("Llama-3.1-8B", *SHORT, "--rate", "1", "--pp", "2"), "leave out --pp"),
        (("Llama-3.1-8B", *SHORT, "--rate", "1", "--with", "medusa"), "one pass per token"),
        (("Llama-3.1-70B", *SHORT, "--rate", "1"), "choose --tp"),
        (("BERT-base-uncased", *SHORT, "--rate", "1"), "encoder"),
        (("whisper-large-v3", "--hw", "h100", "--rate", "1"), "requests of text"),
        (("bart-large", *SHORT, "--rate", "1", "--batching", "chunked"), "attends to all others"),
        (("Llama-3.1-8B", *SHORT, "--trace", "nowhere.csv"), "no such file"),
        (("Llama-3.1-8B", *SHORT[:-2], "--requests", "0", "--rate", "1"), "requests is 0"),
    ],
)  # fmt: skip
def test_wrong_words_get_a_sentence(words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        run(*words)


def test_an_engine_slows_what_it_serves_and_is_named() -> None:
    asked = ("--rate", "2", "--fidelity", "calibrated", "--with", "fused-projections")  # as engines run
    words = ("Llama-3.1-8B", *SHORT, *asked)
    plain, other, served = (
        run(*words, "--engine", name, "--format", "json") for name in ("none", "other", "vllm")
    )
    (before,), (after,) = (json.loads(text)["rows"] for text in (plain, other))
    assert after["ttft_p50_s"] > before["ttft_p50_s"]
    assert after["tpot_p50_s"] > before["tpot_p50_s"]
    assert json.loads(plain)["engine"] is None
    assert json.loads(served)["engine"].startswith("vllm: decode steps are replayed CUDA graphs; fitted to")
    with pytest.raises(InputError, match="no engine named"):
        run(*words, "--engine", "vlm")


def test_users_in_a_closed_loop_instead_of_a_rate(tmp_path: Path) -> None:
    """From the flag or from a workload file, whose traffic a flag replaces."""
    words = ("Llama-3.1-8B", *SHORT, "--format", "json")
    rows = json.loads(run(*words, "--users", "2,8", "--poll-steps", "10"))["rows"]
    assert [row["users"] for row in rows] == [2, 8]
    assert rows[1]["served_per_s"] > rows[0]["served_per_s"]
    file = tmp_path / "loop.yaml"
    file.write_text(
        "schema: 1\nname: loop\nmodel: Llama-3.1-8B\nphase: generate\nprompt: 200\noutput: 20\n"
        "traffic: {users: 4, requests: 40}\n"
    )
    (row,) = json.loads(run(str(file), "--hw", "h100", "--format", "json"))["rows"]
    assert row["users"] == 4
    (row,) = json.loads(run(str(file), "--hw", "h100", "--rate", "3", "--format", "json"))["rows"]
    assert (row["users"], row["rate_per_s"]) == (None, pytest.approx(3))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--users", "50"), "there are 40 requests"),
        (("--users", "0"), "expected 1 to 40 users"),
        (("--users", "1.5"), "whole numbers"),
        (("--users", "4", "--rate", "1"), "not both"),
        (("--users", "4", "--readers", "1"), "without --readers"),
        (("--users", "4", "--poll-steps", "0"), "poll-steps is 0"),
    ],
)
def test_users_that_cannot_be_are_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        run("Llama-3.1-8B", *SHORT, *words)


def test_prompts_that_are_read_whole_take_room_for_their_activations() -> None:
    """Beyond the budget, unless they are read in chunks of it: less is left for the cache."""
    words = ("Llama-3.1-8B", "--hw", "h100", "--prompt", "60000", "--output", "2", "--requests", "2")
    whole, chunked, large = (
        json.loads(run(*words, "--rate", "0.01", "--format", "json", "--batching", *how))["rows"][0]
        for how in (["continuous"], ["chunked"], ["chunked", "--budget", "60000"])
    )
    assert whole["cache_peak"] == pytest.approx(large["cache_peak"])
    assert whole["cache_peak"] > 1.03 * chunked["cache_peak"]
