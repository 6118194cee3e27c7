"""`--weights checkpoint` on the command line, in files, and in records of what was predicted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiler.report import predictions_of
from roofline import api
from workloads.catalogue import load_model

Roofline = Callable[..., Any]
SIZES = ("--phase", "decode", "--context", "1024")
DEEPSEEK = ("--weights", "fp8_block", "--activations", "fp8")
EIGHT = {"num_bits": 8, "type": "float"}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Llama 3.2 1B with its attention in 16 bits and the rest in FP8, as compressed-tensors writes it."""
    group = {"weights": EIGHT, "input_activations": EIGHT, "targets": ["Linear"]}
    quantised = {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*self_attn.*"],
    }
    config = {**load_model("Llama-3.2-1B").config, "quantization_config": quantised, "dtype": "bfloat16"}
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_one_word_is_all_formats_of_the_checkpoint(roofline: Roofline) -> None:
    asked = ("predict", "DeepSeek-V3", "--hw", "h200", "--tp", "8", *SIZES, "--format", "json")
    one, all_named = (roofline(*asked, *words) for words in (("--weights", "checkpoint"), DEEPSEEK))
    assert one.data == all_named.data
    assert "narrower" not in one.err
    assert "narrower (fp8_block): --weights checkpoint." in roofline(*asked).err
    plain = roofline(*asked, "--weights", "checkpoint", "--activations", "bf16").data
    assert plain["dtypes"]["activations"] == "bf16"


def test_modules_in_other_formats_are_in_the_heading_and_the_record(
    roofline: Roofline, mixed: Path, tmp_path: Path
) -> None:
    asked = ("predict", mixed, "--hw", "h100", *SIZES, "--weights", "checkpoint")
    attention = 16 * 2 * 2048 * (2 * 2048 + 2 * 512)
    assert f"weights fp8 ({attention / 1e9:.3g} GB in bf16), activations fp8" in roofline(*asked).out
    for given in ((), ("--kv", "fp8"), ("--activations", "bf16")):
        path = tmp_path / "p.json"
        assert roofline(*asked, *given, "--format", "json", "-o", path).code == 0
        data = json.loads(path.read_text())
        (others,) = data["dtypes"]["others"]
        assert (others["weights"], others["bytes"], len(others["operators"])) == ("bf16", attention, 4)
        (again,) = predictions_of(path)  # as reports read it
        assert again.totals() == data["totals"]
    assert roofline("report", path, "-o", tmp_path / "r.html").code == 0


def test_what_was_asked_in_files_and_from_python_is_the_same(
    roofline: Roofline, mixed: Path, tmp_path: Path
) -> None:
    expected = api.predict(str(mixed), "h100", phase="decode", context=1024, weights="checkpoint").totals()
    loaded = load_model(mixed)
    assert (
        api.predict(loaded, "h100", phase="decode", context=1024, weights="checkpoint").totals() == expected
    )
    file = tmp_path / "asked.yaml"
    lines = f"schema: 1\nname: asked\nmodel: {mixed}\nphase: decode\ncontext: 1024\n"
    file.write_text(lines + "dtypes: {weights: checkpoint}\n")
    assert roofline("predict", file, "--hw", "h100", "--format", "json").data["totals"] == expected
    swept = api.sweep(
        [str(mixed), "gpt-oss-20b"],
        "h100",
        phase="decode",
        batch=[1, 2],
        context=1024,
        dtypes=[{"weights": "checkpoint"}, {"weights": "bf16"}],
    )
    (own,) = swept[(swept["weights"] == "fp8 (checkpoint)") & (swept["batch"] == 1)].to_dict("records")
    assert own["time_s"] == pytest.approx(expected["time_s"])
    oss = swept[swept["model"] == "gpt-oss-20b"]
    assert list(oss["experts"]) == ["mxfp4", "mxfp4", "bf16", "bf16"]
    assert set(oss["weights"]) == {"bf16"}


def test_commands_that_compare_take_it(roofline: Roofline, mixed: Path) -> None:
    words = (mixed, *SIZES, "--weights", "checkpoint", "--format", "json")
    assert roofline("whatif", *words, "--hw", "h100").code == 0
    assert roofline("whatif", *words, "--target", "tpot=20ms", "--hw", "h100,h200").code == 0
    served = roofline("serve", mixed, "--hw", "h100", "--rate", "2", "--requests", "20", *words[5:7])
    assert served.code == 0
    assert " GB in bf16), activations fp8" in served.out


def test_a_quantised_checkpoint_is_not_measured(roofline: Roofline, mixed: Path, tmp_path: Path) -> None:
    asked = ("profile", mixed, "--device", "cpu", "--dtype", "checkpoint", "-o", tmp_path / "run")
    ended = roofline(*asked)
    assert ended.code == 2
    assert (
        "is published quantised (weights fp8), and models are measured in fp64, fp32, bf16, fp16" in ended.err
    )
