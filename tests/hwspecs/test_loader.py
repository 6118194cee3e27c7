"""What the loader refuses: each complaint is one sentence that names the file and the key."""

import subprocess
import sys
from pathlib import Path

import pytest

from hwspecs.loader import load_device
from specfiles.errors import InputError

GOOD = """\
schema: 1
name: Toy
aliases: [toy]
vendor: Nobody
kind: gpu
architecture: none
sources:
  sheet: the only data sheet
datasheet:
  processors: {value: 10, source: sheet}
  tensor_flop_per_s:
    bf16: {value: 100.0e+12, source: sheet}
    fp8: {value: 200.0e+12, source: sheet}
  dram:
    type: HBM
    capacity_bytes: {value: 10.0e+9, source: sheet}
    byte_per_s: {value: 1.0e+12, source: sheet}
"""


def refusal(path: Path, text: str) -> str:
    """The complaint about a device file with this text; it must start with the file."""
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_device(str(path))
    sentence = str(error.value)
    assert sentence.startswith(f"{path}: ")
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "toy.yaml"


def test_the_good_file_loads(file: Path) -> None:
    file.write_text(GOOD)
    assert load_device(file).datasheet.dram.byte_per_s.value == 1e12  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("  processors:", "  procesors:", ["'datasheet.procesors'", "did you mean 'processors'?"]),
        ("byte_per_s: {value: 1.0e+12", "bytes_per_s: {value: 1.0e+12", ["'datasheet.dram.bytes_per_s'"]),
        ("{value: 10, source: sheet}", "{value: 10}", ["'datasheet.processors.source' is missing"]),
        ("{value: 10, source: sheet}", "10", ["datasheet.processors", "not 10"]),
        (
            "{value: 10, source: sheet}",
            "{value: 10, source: rumour}",
            ["datasheet.processors", "'rumour'", "sheet"],
        ),
        ("{value: 10, source: sheet}", "{value: -10, source: sheet}", ["datasheet.processors.value", "-10"]),
        ("{value: 10, source: sheet}", "{value: .inf, source: sheet}", ["datasheet.processors.value"]),
        ("value: 1.0e+12", "value: 1.0e12 B/s", ["datasheet.dram.byte_per_s.value", "'1.0e12 B/s'"]),
        # For PyYAML text, as its exponent has no sign.
        ("value: 1.0e+12", "value: 1.0e12", ["datasheet.dram.byte_per_s.value", "'1.0e12'"]),
        ("200.0e+12", "400.0e+12", ["datasheet.tensor_flop_per_s.fp8", "sparsity"]),
        ("    fp8:", "    fp9:", ["datasheet.tensor_flop_per_s.fp9"]),
        ("kind: gpu", "kind: toaster", ["kind", "'toaster'"]),
        ("schema: 1", "schema: 2", ["schema", "2"]),
        ("vendor: Nobody", "vendor: Nobody\nname: Twice", ["'name'", "twice"]),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(file: Path, good: str, bad: str, said: list[str]) -> None:
    assert good in GOOD
    sentence = refusal(file, GOOD.replace(good, bad, 1))
    assert all(part in sentence for part in said), sentence


PEAK = "{value: 200.0e+12, source: sheet"
DOUBLE = "{value: 400.0e+12, source: sheet, note: "


@pytest.mark.parametrize("note", ["dense", "dense by the sheet", "dense; four times bf16"])
def test_a_peak_that_looks_sparse_is_taken_where_its_note_says_dense(file: Path, note: str) -> None:
    assert PEAK in GOOD
    file.write_text(GOOD.replace(PEAK, DOUBLE + note))
    load_device(str(file))


@pytest.mark.parametrize("note", ["not dense", "twice the dense peak", "dense peak is half", "condensed"])
def test_a_note_that_only_has_the_word_dense_excuses_no_sparse_peak(file: Path, note: str) -> None:
    assert "begin its note with 'dense;'" in refusal(file, GOOD.replace(PEAK, DOUBLE + note))


def test_bottomless_nesting_is_refused_and_does_not_end_the_process(file: Path) -> None:
    """In a process of its own: a recursive C parser dies of such a file instead of raising."""
    file.write_text("sources: " + "[" * 100_000 + "]" * 100_000)
    code = f"from hwspecs.loader import load_device; load_device({str(file)!r})"
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == 1
    assert "InputError" in ended.stderr


def test_a_file_cut_between_keys_misses_what_is_gone(file: Path) -> None:
    assert "'datasheet.dram' is missing" in refusal(file, GOOD[: GOOD.index("  dram:")])


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(InputError, match="H100-SXM5-80GB"):
        load_device("H100-SXM5-81GB")
