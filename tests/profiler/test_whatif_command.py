"""`roofline whatif` as a user meets it."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import pytest

from profiler.cli.whatif import command
from specfiles.errors import InputError
from tests.profiler.conftest import printed_by

run = partial(printed_by, command)
ASKED = ("Llama-3.1-8B", "--hw", "h100", "--batch", "4", "--prompt", "512", "--output", "32")


def test_methods_that_keep_the_output_stand_apart_from_those_that_need_training() -> None:
    text = run(*ASKED, "--quality", "retrained")
    same, other, trained = (
        text.index(label) for label in ("(exact)", "with another output (lossy)", "(retrained)")
    )
    assert same < text.index("- speculative-decoding:k=") < other
    assert (
        other
        < text.index("- weight-only-quantisation:format=int4_g128: ")
        < trained
        < text.index("- distillation: ")
    )


def test_by_default_what_gains_without_training_is_listed_and_the_rest_is_named() -> None:
    """An 8B model fits an H100: fetching its weights over PCIe saves memory that nobody lacks."""
    text = run(*ASKED)
    (idle,) = (line for line in text.splitlines() if "weight-offloading" in line)
    assert idle.startswith("Slower, or no gain: ")
    assert "- distillation: " not in text
    assert "with --quality retrained, the fastest " in text
    assert "Not applicable (--only NAME says why): " in text
    assert "- distillation: " in run(*ASKED, "--only", "distillation")
    named = run(*ASKED, "--only", "weight-offloading", "--only", "expert-pruning")
    assert "- weight-offloading: " in named
    assert "- expert-pruning: the model has no experts." in named


def test_what_no_engine_serves_is_named_after_what_engines_serve() -> None:
    text = run(*ASKED)
    assert "- early-exit" not in text
    (named,) = (line for line in text.splitlines() if "early-exit" in line)
    assert named.startswith("Served by no inference engine: ")
    assert "- early-exit: " in run(*ASKED, "--only", "early-exit")


def test_quality_and_top_limit_what_is_shown_and_not_what_is_known() -> None:
    text = run(*ASKED, "--quality", "exact", "--top", "2")
    assert "- weight-only-quantisation:format=int4_g128: " not in text
    assert "more with --top" in text
    outcomes = json.loads(run(*ASKED, "--quality", "exact", "--top", "2", "--format", "json"))["outcomes"]
    assert {outcome["quality"] for outcome in outcomes} == {"exact", "lossy", "retrained"}


def test_pairs_are_tried_within_each_quality() -> None:
    outcomes = json.loads(run(*ASKED, "--format", "json"))["outcomes"]
    paired = {outcome["quality"] for outcome in outcomes if len(outcome["names"]) == 2}
    assert paired == {"lossy", "retrained"}  # of exact methods none gains a per cent beside another here
    gains = [outcome["speedup"] for outcome in outcomes]
    assert gains == sorted(gains, reverse=True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(("--quality", "best"), "exact"), (("--top", "0"), "top is 0"), (("--target", "speed=3"), "tpot")],
)
def test_wrong_words_get_a_sentence(words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        run(*ASKED, *words)


def test_only_what_is_named_is_tried_and_two_of_a_name_are_told_apart() -> None:
    found = json.loads(run(*ASKED, "--only", "awq", "--only", "kv8", "--format", "json"))
    names = {"weight-only-quantisation", "kv-quantisation"}
    assert {name for outcome in found["outcomes"] for name in outcome["names"]} == names
    assert len(found["outcomes"]) == 3  # each, and both
    assert found["not_applicable"] == {}
    told = run(*ASKED, "--only", "awq", "--only", "w8a16")
    assert "weight-only-quantisation:format=int4_g128 " in told
    assert "weight-only-quantisation:format=int8 " in told
    wanted = ("--target", "tpot=100us", "--hw", "h100", "--only", "int4", "--quality", "retrained")
    near = json.loads(run(*ASKED, *wanted, "--format", "json"))["nearest"]
    assert {name for answer in near for name in answer["names"]} <= {"weight-only-quantisation"}
    with pytest.raises(InputError, match="no technique named 'awk'"):
        run(*ASKED, "--only", "awk")


def test_what_was_asked_is_said_whole() -> None:
    (head, *_) = run("Llama-3.1-8B", "--hw", "h100", "--tp", "2", "--batch", "4", "--kv", "fp8").splitlines()
    assert head.startswith(
        "Llama-3.1-8B on 2 x H100-SXM5-80GB, tp 2: generate, batch 4, prompt 1024, output 128,"
    )
    assert "weights bf16, activations bf16, KV fp8" in head


def test_an_engine_around_every_line() -> None:
    words = ("--fidelity", "calibrated", "--engine", "eager", "--format", "json")
    found = json.loads(run(*ASKED, *words))
    assert found["engine"]["name"] == "eager"
    assert "cuda-graphs" in {name for outcome in found["outcomes"] for name in outcome["names"]}
    with pytest.raises(InputError, match="vllm"):
        run(*ASKED, "--engine", "vlm")


def test_a_target_among_some_devices_with_the_price_of_a_token(tmp_path: Path) -> None:
    """A dollar an hour at r tokens a second is 1e6 / 3600 / r dollars a million."""
    (tmp_path / "prices.yaml").write_text("H100-SXM5-80GB: 3.6\n")
    asked = ("Llama-3.1-8B", "--target", "tpot=30ms", "--hw", "h100,l4", "--quality", "exact")
    found = json.loads(run(*asked, "--prices", str(tmp_path / "prices.yaml"), "--format", "json"))["answers"]
    assert [row["hardware"] for row in found] == ["H100-SXM5-80GB", "L4-24GB"]
    first, second = found
    hours = 1e6 / first["tokens_per_s"] / 3600
    assert first["usd_per_million_tokens"] == pytest.approx(3.6 * first["devices"] * hours)
    assert second["usd_per_million_tokens"] is None
    told = run(*asked, "--prices", str(tmp_path / "prices.yaml"))
    assert "Without a price, though they meet it, too: L4-24GB." in told
    assert told.count("L4-24GB") == 1, "a row without a price says nothing of the cheapest token"


def test_devices_without_an_answer_are_named_and_formats_are_said() -> None:
    asked = (
        "Llama-3.1-70B",
        "--target",
        "tpot=5ms",
        "--hw",
        "h100,l4,a100",
        "--weights",
        "fp8",
        "--quality",
        "exact",
    )
    found = json.loads(run(*asked, "--format", "json"))
    assert sorted([*found["unmet"], *(row["hardware"] for row in found["answers"])]) == [
        "A100-SXM4-80GB",
        "H100-SXM5-80GB",
        "L4-24GB",
    ]
    assert found["unmet"] == ["L4-24GB"]
    told = run(*asked)
    assert "Nothing that was tried meets it on L4-24GB." in told
    assert "weights fp8, activations bf16, KV bf16" in told.splitlines()[0]


def test_the_nearest_that_engines_serve_is_printed_before_what_they_do_not() -> None:
    asked = ("DeepSeek-V3", "--batch", "32", "--target", "ttft=1s", "--hw", "h100-pcie")
    text = run(*asked)
    first, second = text.index("with what inference engines serve; nearest are"), text.index("what meets it")
    assert first < text.index("ttft 1.") < second < text.index("summaries")
    lines = run(*asked, "--format", "csv").splitlines()
    near, met = csv.DictReader(line for line in lines if not line.startswith("note: "))  # of stderr
    assert (near["served"], met["served"], met["missed"]) == ("True", "False", "")


def test_an_answer_says_what_its_gain_assumes() -> None:
    """A drafted token is kept by an assumed chance; 4-bit weights assume nothing."""
    asked = ("Llama-3.1-70B", "--target", "tpot=20ms", "--hw", "h100")
    drafted = run(*asked, "--only", "speculative-diffusion:accept=0.7", "--quality", "exact")
    assert "accept=0.7" in drafted
    quantised = run(*asked, "--only", "awq")
    assert "assumed" not in quantised
    (answer,) = json.loads(run(*asked, "--only", "awq", "--format", "json"))["answers"]
    assert answer["assumed"] == ""


def test_devices_are_those_of_all_stages_and_as_many_as_asked() -> None:
    """A stage more is a device more: 70B in bf16 needs two stages of 80 GB, and they draw twice the power."""
    asked = ("Llama-3.1-70B", "--target", "tpot=1s", "--hw", "h100", "--quality", "exact", "--format", "json")
    (answer,) = json.loads(run(*asked, "--pp", "2"))["answers"]
    assert (answer["devices"], answer["tdp_w"]) == (2, 1400)
    (answer,) = json.loads(run(*asked, "--tp", "8"))["answers"]
    assert (answer["devices"], answer["names"]) == (8, [])
    found = json.loads(run("Llama-3.1-8B", *asked[1:4], "h100,h100_sxm", *asked[5:]))["answers"]
    assert [row["devices"] for row in found] == [1]


def test_what_is_said_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text("h100: 2\nH100-SXM5-80GB: 3\n")
    asked = ("Llama-3.1-8B", "--hw", "h100", "--target")
    with pytest.raises(InputError, match="H100-SXM5-80GB, which has a price already"):
        run(*asked, "tpot=20ms", "--prices", str(tmp_path / "prices.yaml"))
    with pytest.raises(InputError, match="has tpot twice"):
        run(*asked, "tpot=20ms,tpot=30ms")
    with pytest.raises(InputError, match="no device named ''"):
        run(*asked[:2], "h100,,l4", "--target", "tpot=20ms")
