"""Every shipped model: it loads, its parameters are the published ones, its names are its own."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from specfiles.errors import InputError
from workloads.catalogue import MODELS, load_model
from workloads.families import FAMILIES
from workloads.phases import Setting, parameters

FILES = MODELS.paths()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_counted_parameters_are_the_published_ones(path: Path) -> None:
    loaded = load_model(path)
    assert loaded.file is not None
    assert parameters(loaded.model) == loaded.file.published.params


def test_every_family_has_a_shipped_model() -> None:
    assert {load_model(path).model.family for path in FILES} == set(FAMILIES)


def test_the_counted_table_agrees(shared: Callable[[str], Path]) -> None:
    """Parameters and KV bytes per token against another count, by the reference implementation."""
    with shared("facts/models.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["model"].lower(): row for row in csv.DictReader(file)}
    checked = 0
    for path in FILES:
        model = load_model(path).model
        row = rows.get(model.name.lower())
        if row is None:
            continue
        checked += 1
        assert parameters(model) == int(row["total_params_counted"]), model.name
        growth = model.cache_bytes(1, 2, Setting()) - model.cache_bytes(1, 1, Setting())  # states stay
        if row["kv_bytes_per_token_16bit"]:
            assert growth == int(row["kv_bytes_per_token_16bit"]), model.name
        else:  # of a state-space model, an encoder, a diffusion model
            assert growth == 0, model.name
    assert checked >= 35


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("llama 2 7b", "Llama-2-7B"),
        ("meta-llama/Llama-3.1-8B", "Llama-3.1-8B"),
        ("qwen2.5_0.5b", "Qwen2.5-0.5B"),
        ("google/gemma-2-2b", "Gemma-2-2b"),
        ("facebook/opt-125m", "OPT-125m"),
    ],
)
def test_people_find_the_model_they_mean(asked: str, name: str) -> None:
    assert load_model(asked).model.name == name


def test_a_misspelt_name_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no model named 'Lama-2-7B'; did you mean Llama-2-7B"):
        load_model("Lama-2-7B")


def test_a_folder_with_a_config_is_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,'
        ' "intermediate_size": 16, "vocab_size": 10}'
    )
    for asked in (folder, folder / "config.json"):
        loaded = load_model(asked)
        assert loaded.model.name == "my-model"
        assert loaded.file is None
    # embedding and head, q k v o, gate up down, two norms, the last norm
    assert parameters(loaded.model) == 2 * 10 * 8 + 4 * 8 * 8 + 3 * 8 * 16 + 2 * 8 + 8
