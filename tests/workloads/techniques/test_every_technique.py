"""What is true of every technique: facts, names, neutral parameters, refusals, order, ranking."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from profiler.cli import app
from profiler.cli.techniques import command
from reports.techniques import book, listing
from roofline.scenario import Scenario
from roofline.whatif import whatif
from specfiles.errors import InputError
from tests.workloads.techniques.asking import BASE, DEVICE, EAGER, SCENARIO, numbers, predicted
from workloads.catalogue import load_model
from workloads.step import Setting
from workloads.techniques.base import Technique
from workloads.techniques.registry import known, parse, spoken
from workloads.techniques.serving import SERVING


@pytest.mark.parametrize("technique", known().values(), ids=list(known()))
def test_every_technique_says_what_it_is(technique: type[Technique]) -> None:
    for fact in ("category", "paper", "removes", "adds", "needs", "slot"):
        assert getattr(technique, fact).strip()
    for fact in ("paper", "removes"):  # which only those outside this repository may leave out
        assert getattr(technique, fact) != getattr(Technique, fact)
    assert technique.level in ("algorithm", "model", "system")
    assert technique.quality in ("exact", "lossy", "retrained")
    assert technique.__doc__
    for option in fields(technique):  # type: ignore[arg-type]
        assert option.default is not MISSING
        assert option.metadata["why"]
        low, high, among = (option.metadata[key] for key in ("low", "high", "among"))
        if among:
            assert option.default in among
        elif low is not None:
            assert low <= option.default <= high


@pytest.mark.parametrize("fact", ["category", "quality", "slot"])
def test_a_class_that_states_no_known_kind_is_refused(fact: str) -> None:
    stated = {"category": "quantisation", "quality": "lossy", "slot": "the format of the KV cache"}
    type("Right", (Technique,), {"name": "right", **stated})
    with pytest.raises(InputError, match=f"no {fact} of techniques named 'wrong'"):
        type("Wrong", (Technique,), {"name": "wrong", **stated, fact: "wrong"})


def test_names_and_aliases_are_of_one_technique_each() -> None:
    called = [name for t in known().values() for name in (t.name, *t.aliases, *t.variants)]
    assert len(set(map(spoken, called))) == len(called)


@pytest.mark.parametrize("technique", known().values(), ids=list(known()))
def test_a_name_is_read_however_it_is_written(technique: type[Technique]) -> None:
    """docs/techniques.md has all names, and what those of variants set."""
    plain = ((name, {}) for name in (technique.name, *technique.aliases))
    for name, values in (*plain, *technique.variants.items()):
        for written in (name, name.upper(), name.replace("-", " "), name.replace("-", "_")):
            assert parse(written) == technique(**values), written


# What published methods are, by the names that they have in their papers.
PUBLISHED = {
    "DeepSeekMoE": "mixture-of-experts:experts=64,top_k=6",
    "Switch Transformer": "mixture-of-experts:top_k=1",
    "multi-query attention": "grouped-query-attention:kv_heads=1",
    "CLA3": "cross-layer-attention:shared=3",
    "Performer": "linear-attention:function=positive",
    "RFA": "linear-attention:function=trigonometric",
    "Jamba": "state-space:attention=8",
    "QLoRA": "weight-only-quantisation:format=nf4",
    "LLM.int8()": "llm-int8",
    "KIVI": "kv-quantisation:format=int2_g32",
    "block diffusion": "diffusion-generation:block=32",
    "KTransformers": "expert-offloading:compute=host",
    "Weight-only Quantization": "weight-only-quantisation",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_methods_are_found_by_their_names(name: str) -> None:
    assert parse(name) == parse(PUBLISHED[name])


@pytest.mark.parametrize("name", ["Continuous Batching", "chunked prefill", "disaggregation", "Splitwise"])
def test_methods_of_serving_are_answered_by_name(name: str) -> None:
    said = r"is a method of serving, no technique of one request: ask `roofline serve` with --"
    with pytest.raises(InputError, match=said):
        parse(name)


def test_methods_of_serving_are_listed_and_have_a_page() -> None:
    listed = {entry["name"]: entry for entry in json.loads(listing(list(known().values()), "json"))}
    assert set(listed) == {*known(), "continuous-batching", "chunked-prefill", "disaggregation"}
    assert all(set(entry) == set(listed["eagle"]) for entry in listed.values())
    shown = CliRunner().invoke(command, ["show", "Sarathi"]).output
    assert "--batching chunked" in shown
    assert shown.replace("# chunked", "### chunked", 1).rstrip() in book(list(known().values()))


@pytest.mark.parametrize("name", known())
def test_what_a_technique_says_of_itself_makes_it_again(name: str) -> None:
    technique = parse(name)
    assert parse(technique.told()) == technique


@pytest.mark.parametrize("name", known())
def test_a_technique_applies_or_says_why_not(name: str) -> None:
    for scenario in (SCENARIO, EAGER, replace(SCENARIO, phase="prefill"), replace(SCENARIO, phase="decode")):
        try:
            found = numbers(predicted(name, scenario=scenario))
        except InputError as error:
            said = str(error)
        else:
            assert found["time_s"] > 0
            assert found["memory_bytes"] > 0
            continue
        assert said.startswith(f"{parse(name).name} is not applicable: ")


# Parameters at which a technique does nothing: the prediction is that without it.
NEUTRAL = [
    "prompt-compression:ratio=1",
    "prefix-caching:hit=0",
    "weight-only-quantisation:format=bf16",
    "weight-activation-quantisation:format=bf16",
    "kv-quantisation:format=bf16",
    "streaming-llm:sinks=0,window=5000",
    "early-exit:layers=1",
    "grouped-query-attention:kv_heads=8",
    "window-attention:window=5000",
    "layer-sharing:shared=1",
    "cross-layer-attention:shared=1",
    "structured-pruning:ratio=0",
    "layer-pruning:ratio=0",
    "deep-and-thin:depth=1",
    "low-rank:ratio=1",
    "unstructured-sparsity:stored=dense",
    "unstructured-sparsity:sparsity=0",
    "block-sparsity:sparsity=0",
    "h2o:share=1",
    "mixture-of-attention:span=1",
    "weight-offloading:share=0",
    "kv-offloading:share=0",
    "mixture-of-depths:capacity=1",
    "bigbird:window=3000,first=50,random=50",
    "state-space:attention=1",
    "gist-tokens:ratio=1",
    "summaries:ratio=1",
    "skeleton-of-thought:skeleton=1,points=1,instruction=0,longest=1",
    "apar:head=0,branches=1,longest=1",
    "skeleton-graph-decoding:points=3,levels=3,instruction=0",
    "blockwise:k=1,accepted=1",
    "next-k-tokens:k=1",
]


@pytest.mark.parametrize("words", NEUTRAL)
def test_at_its_neutral_parameters_a_technique_changes_nothing(words: str) -> None:
    assert numbers(predicted(words)) == pytest.approx(numbers(BASE), rel=1e-12)


def test_techniques_that_decide_the_same_are_refused_together() -> None:
    with pytest.raises(InputError, match="combined: each decides the format of weights; choose one"):
        predicted("awq", "smoothquant")
    with pytest.raises(InputError, match="cannot be combined"):
        predicted("awq", "awq:format=int8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("awk", "no technique named 'awk'; did you mean awq|no technique named 'awk'"),
        ("quest:budgets=3", "no parameter of quest named 'budgets'; did you mean budget"),
        ("quest:budget=few", "quest:budget is 'few'; expected a whole number from 1 to 1e\\+07"),
        ("quest:budget=0", "quest:budget is '0'; expected a whole number from 1"),
        ("speculative:accept=1.5", "speculative-decoding:accept is '1.5'; expected a number from 0 to 1"),
        ("speculative:k=2,k=3", "speculative-decoding:k is given twice; leave one out"),
        ("speculative:accept=nan", "accept is 'nan'"),
        ("awq:format=int5", "format is 'int5'; expected one of int4_g128"),
        ("speculative:draft=Lama", "no model named 'Lama'"),
    ],
)
def test_wrong_words_are_said(words: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        predicted(words)


def test_the_documentation_is_what_the_techniques_say() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "techniques.md"
    assert page.read_text(encoding="utf-8") == book(list(known().values()))


BOOK = book(list(known().values()))
PRINTED = [found[1].split() for found in re.finditer(r"^`roofline (.*?)`", BOOK, re.M)]


@functools.cache
def answered(*words: str) -> Any:
    """The answer of a command line, as data, run in this process."""
    result = CliRunner().invoke(app, [*words, "--format", "json"])
    assert result.exit_code == 0, (words, result.output, result.exception)
    return json.loads(result.output)


@pytest.mark.parametrize("words", PRINTED, ids=lambda words: words[-1])
def test_every_documented_command_answers_and_its_method_changes_something(words: list[str]) -> None:
    found = answered(*words)
    if words[0] == "predict":
        plain = answered(*words[:-2])
        assert any(found[part] != plain[part] for part in ("totals", "operators"))


def test_every_method_has_a_command_in_the_documentation() -> None:
    assert len(PRINTED) == len(known()) + len(SERVING)


def test_whatif_tries_all_and_ranks_them() -> None:
    found = whatif(SCENARIO, DEVICE)
    singles = {o.techniques[0].name for o in found.outcomes if len(o.techniques) == 1}
    counted = {o.techniques[0].name for o in found.counted}
    refused = {called.partition(":")[0] for called in found.refused}
    assert singles | refused | counted == set(known())
    assert not singles & set(found.refused)
    speedups = [outcome.speedup for outcome in found.outcomes]
    assert speedups == sorted(speedups, reverse=True)
    for outcome in found.outcomes:
        assert outcome.after.time_s() == predicted(*(t.told() for t in outcome.techniques)).time_s()


@pytest.mark.parametrize(
    "name", ["t5-small", "bert-base-uncased", "llada-8b", "mamba-2-2.7b", "jamba-v0.1", "deepseek-v3"]
)
def test_every_architecture_takes_what_applies_and_is_told_why_the_rest_does_not(name: str) -> None:
    model = load_model(name).model
    for phase in model.phases:
        found = whatif(Scenario(model, phase, batch=2, prompt=300, output=20), DEVICE)
        assert "weight-only-quantisation" not in found.refused
        assert all(outcome.why() and outcome.record()["bound_after"] for outcome in found.outcomes)
        assert all(found.refused.values())


@pytest.mark.parametrize("words", ["medusa", "blockwise", "eagle"])
def test_heads_are_on_the_last_stage_of_a_pipeline(words: str) -> None:
    """Two stages hold together what one device holds: the heads stand beside the vocabulary projection."""
    staged = replace(SCENARIO, setting=replace(SCENARIO.setting, pipeline_parallel=2))
    whole = numbers(predicted(words))["weights_bytes"] - numbers(BASE)["weights_bytes"]
    before, after = (numbers(predicted(*w, scenario=staged))["weights_bytes"] for w in ((), (words,)))
    assert after - before == pytest.approx(whole)


@pytest.mark.parametrize("name", [*known(), "apar:branches=1.3"])
def test_attention_with_a_part_of_the_batch_does_the_work_of_that_batch(name: str) -> None:
    """Four devices share DeepSeek's experts; all else is what one device does for a quarter of the batch."""
    model = load_model("DeepSeek-V2-Lite").model
    model = replace(model, stack=replace(model.stack, drafts=1))
    shared = replace(SCENARIO, model=model, batch=64, setting=Setting(expert_parallel=4))
    shares = shared, replace(shared, batch=16, setting=Setting())
    try:
        found = [predicted(name, scenario=share).rows for share in shares]
    except InputError:
        return
    whole, part = ({(r.phase, r.name): r.work for r in rows if ".moe." not in r.name} for rows in found)
    assert whole == part
