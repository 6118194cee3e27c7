"""Every causal language model of transformers is read, or refused in a sentence that says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from profiler.model_table import family_records
from specfiles.errors import InputError
from tests.profiler.conftest import older_transformers
from workloads.config import Config
from workloads.families import FAMILIES, TRACE, build
from workloads.families.refused import WHY

pytest.importorskip("transformers")


def test_a_family_that_is_not_read_is_refused_with_what_to_do_instead() -> None:
    refused = [record["family"] for record in family_records() if not record["read"]]
    assert "blt" in refused
    for kind in refused:
        with pytest.raises(InputError) as error:
            build(Config({"model_type": kind}, "config.json"), kind)
        assert str(error.value).startswith(f"config.json: model_type {kind!r}")
        assert TRACE in str(error.value)


def test_each_reason_is_of_a_family_that_transformers_has_and_nothing_reads() -> None:
    from transformers import CONFIG_MAPPING

    assert not set(WHY) & set(FAMILIES)
    with pytest.raises(InputError, match="'zamba' is not read, as its Mamba layers multiply by"):
        build(Config({"model_type": "zamba"}, "config.json"), "zamba")
    absent = {kind for kind in WHY if kind not in CONFIG_MAPPING}
    if absent and (version := older_transformers()):
        pytest.skip(f"transformers {version} has no {', '.join(sorted(absent))}")
    assert not absent, absent


def test_what_has_ranges_can_be_predicted() -> None:
    records = family_records()
    assert all(record["read"] for record in records if record["ranges"])
    assert {"llama", "mamba", "bert"} <= {record["family"] for record in records if record["ranges"]}


def test_the_command_says_of_each_family_what_can_be_done(roofline: Callable[..., Any]) -> None:
    shown = roofline("models", "families")
    assert shown.code == 0
    rows = {line.split()[0]: line.split()[1:] for line in shown.out.splitlines() if line.strip()}
    assert rows["llama"] == ["yes", "yes", "yes"]
    assert rows["sedd"] == ["yes"]  # neither profiled nor in transformers
    records = json.loads(roofline("models", "families", "--format", "json").out)
    ranged = sum(record["ranges"] and record["transformers"] for record in records)
    assert f"{ranged} can be profiled" in shown.out


@pytest.mark.parametrize(
    ("name", "growth"),
    [
        ("Llama-3.1-8B", 32 * 2 * 8 * 128 * 2),
        ("Mamba-2-2.7B", 0),
        ("Kimi-K3", 24 * 576 * 2),  # of latent layers; the states of the others stay
        ("MiniMax-M3", 60 * 2 * 4 * 128 * 2 + 57 * 128 * 2),  # with a key of the index
    ],
)
def test_a_cache_grows_by_what_is_shown(roofline: Callable[..., Any], name: str, growth: int) -> None:
    shown = json.loads(roofline("models", "show", name).out)
    assert shown["kv_bytes_per_token_16bit"] == growth
