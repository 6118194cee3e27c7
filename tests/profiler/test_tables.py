"""Tables as strangers write them: every kind of file says the same, and a broken one is one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from roofline.ceilings import Ceilings, Fidelity
from roofline.optable import predict_table
from tests.profiler.conftest import Finished

WORDS = {"op": ["GEMM", "linear"], "dtype": ["bf16", "e4m3"]}
ROWS = pd.DataFrame({"K": [4096.0, 8192.0], "m": ["1", "16"], "n": [4096, 512], **WORDS})


@pytest.fixture
def run(roofline: Callable[..., Finished]) -> Callable[..., tuple[int, str]]:
    """A command in this process: its exit code and all it said."""

    def both(*words: object) -> tuple[int, str]:
        code, out, err = roofline(*words)
        return code, out + err

    return both


Run = Callable[..., tuple[int, str]]


def written(folder: Path, name: str) -> Path:
    path = folder / name
    match path.suffix:
        case ".parquet":
            ROWS.to_parquet(path)
        case ".json":
            ROWS.to_json(path, orient="records")
        case ".tsv":
            ROWS.to_csv(path, sep="\t", index=False)
        case _:
            ROWS.to_csv(path, sep=";" if "semicolon" in name else ",", index=False)
    return path


@pytest.mark.parametrize("name", ["a.csv", "semicolon.csv", "a.tsv", "a.json", "a.parquet"])
def test_every_kind_of_file_is_predicted_alike_and_keeps_its_own_words(
    run: Run, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out.csv"
    code, said = run("ops", written(tmp_path, name), "--hw", "h100", "--fidelity", "calibrated", "-o", out)
    assert code == 0, said
    found = pd.read_csv(out)
    assert found.columns[:5].tolist() == list(ROWS.columns)
    assert found["op"].tolist() == ROWS["op"].tolist()
    assert found["dtype"].tolist() == ROWS["dtype"].tolist()
    assert found["flops"].tolist() == [2 * 1 * 4096 * 4096, 2 * 16 * 512 * 8192]
    assert (found["predicted_us"] > found["memory_s"] * 1e6).all()


GEMM = "gemm:m=4096,n=14336,k=4096,dtype=bf16"


def test_an_operator_on_the_command_line_is_told_with_what_it_reaches(run: Run) -> None:
    """2 x 4096 x 14336 x 4096 FLOP in 720 us are 668 TFLOP/s, of 989.4 that an H100 has 67.5 %."""
    code, said = run(
        "ops", f"{GEMM},latency_us=720", "attention_decode:" + HEADS, "--hw", "h100", "--explain"
    )
    assert code == 0, said
    assert "m 4096, n 14336, k 4096" in said
    assert " 668 T " in said
    assert " 67.5 %" in said
    assert "reached peaks" in said  # of the product
    assert "\n combine " in said  # of attention
    code, said = run("ops", f"{GEMM},latency_us=152", "--hw", "h100")
    assert (code, "More than 105 % of the roofline" in said) == (0, True)


def test_a_written_table_has_the_attained_share_of_what_was_measured(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same product at 720 us 67.5 %, at 152 us more than all; at any fidelity."""

    def counted(table: pd.DataFrame, limits: Ceilings) -> pd.DataFrame:
        predicted.append(limits.fidelity)
        return predict_table(table, limits)

    predicted: list[Fidelity] = []
    for module in ("scores", "tablenames"):
        monkeypatch.setattr(f"roofline.{module}.predict_table", counted)
    shapes, out = tmp_path / "shapes.csv", tmp_path / "out.csv"
    shapes.write_text(
        "op,dtype,m,n,k,latency_us\n"
        + "".join(f"gemm,bf16,4096,14336,4096,{t}\n" for t in ("720", "152", ""))
    )
    for fidelity in ("datasheet", "calibrated"):
        code, said = run("ops", str(shapes), "--hw", "h100", "--fidelity", fidelity, "-o", str(out))
        assert code == 0, said
        found = pd.read_csv(out)
        assert found["attained"].round(3).tolist()[0] == 0.675
        assert found["above_ceiling"].tolist() == [False, True, False]
        assert pd.isna(found["attained"][2])
    assert predicted == ["datasheet", "calibrated", "datasheet"]  # the roofline once for each table


def test_the_terms_end_with_what_was_measured(run: Run) -> None:
    code, said = run("ops", f"{GEMM},latency_us=7200", GEMM, "--hw", "h100", "--explain")
    assert code == 0, said
    (line,) = (line for line in said.splitlines() if line.startswith("measured "))
    assert line.startswith("measured 7.20 ms: ")
    assert " more than these terms, " in line


HEADS = "batch=32,kv_len=4096,n_heads=64,n_kv_heads=8,head_dim=128"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("gemm:m=4,n",), "is no operator; write one as gemm:m=4096"),
        (("gemm:m=4,n=,k=3",), "is no operator; write one as gemm:m=4096"),
        ((GEMM, "shapes.csv"), "'shapes.csv' is no operator"),
        (("gem:m=4",), "did you mean gemm"),
        (("gemm:m=inf,n=1,k=1",), "m of op gemm is inf"),
        (("gemm:m=nan,n=1,k=1",), "m of op gemm is empty"),
        ((GEMM + ",latency_us=x",), "latency_us is x; expected microseconds"),
        ((GEMM + ",latency_us=-3",), "latency_us is -3.0; expected microseconds"),
        ((GEMM + ",m=3",), "m twice"),
        ((GEMM + ",latencyus=3",), "no column of an operator named 'latencyus'; did you mean latency_us"),
        ((GEMM, "--explain", "--backend", "vlm"), "no backend named 'vlm'; did you mean vllm"),
        ((GEMM, "--fidelity", "measured", "--backend", "vllm"), "fidelity measured has none"),
        ((GEMM, "--explain", "-o", "x.csv"), "leave -o out"),
        ((GEMM,) * 21 + ("--explain",), "at most 20 operators"),
    ],
)
def test_operators_that_cannot_be_read_are_one_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run("ops", *words, "--hw", "h100")
    assert code == 2
    assert sentence in said
    assert len(said.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ("serve", "Llama-3.1-8B", "--hw", "h100", "--rate", "1", "--step-overhead", "nan"),
        ("predict", "Llama-3.1-8B", "--hw", "h100", "--price", "nan"),
        ("predict", "Mixtral-8x7B", "--hw", "h100", "--expert-skew", "nan"),
        ("validate", ".", "--hw", "h100", "--max-error", "nan"),
    ],
    ids=lambda words: words[-2],
)
def test_what_is_no_number_is_refused(run: Run, words: tuple[str, ...]) -> None:
    code, said = run(*words)
    assert code == 2
    assert "'nan' is not a number" in said


@pytest.mark.parametrize("words", [("--price", "0"), ("--expert-skew", "11")], ids=lambda words: words[0])
def test_a_number_out_of_range_is_refused(run: Run, words: tuple[str, str]) -> None:
    code, said = run("predict", "Mixtral-8x7B", "--hw", "h100", *words)
    assert code == 2
    assert f"'{words[0]}': {float(words[1])} is not in the range" in said


def test_a_table_without_rows_is_told_and_written(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "none.csv"
    ROWS.head(0).to_csv(path, index=False)
    assert run("ops", path, "--hw", "h100") == (0, "The table has no rows.\n")
    code, _ = run("ops", path, "--hw", "h100", "-o", tmp_path / "out.csv")
    assert (code, len(pd.read_csv(tmp_path / "out.csv"))) == (0, 0)


def test_of_many_rows_the_first_are_printed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    pd.concat([ROWS] * 40).to_csv(path, index=False)
    code, said = run("ops", path, "--hw", "h100")
    assert code == 0, said
    assert "30 more rows; -o FILE.csv writes all." in said


def test_measured_times_are_validated_under_the_same_names(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    ROWS.assign(latency_us=[15.0, 9.0]).to_json(path, orient="records")
    code, said = run("validate", path, "--hw", "h100", "--fidelity", "calibrated")
    assert code == 0, said
    assert "fp8" in said


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.json", '{"rows": 3}', "expected a list of rows"),
        ("a.json", '[{"op": {"a": 1}}]', "expected a list of rows"),
        ("a.json", "[{", "cannot be read as a table"),
        ("a.xlsx", "", "unknown ending '.xlsx'"),
        ("a.csv", 'op,dtype,m,n,k\ngemm,bf16,"1,024",8,8\n', "row 1: m of op gemm is '1,024'"),
        ("a.csv", "op,dtype,m,n,k\ngemm,q9,8,8,8\n", "no dtype"),
        ("a.csv", "op,dtype,n,k\ngemm,bf16,8,8\n", "needs the column 'm'"),
        ("a.csv", "op,m,n, m,k\ngemm,1,8,2,8\n", "has two columns 'm'"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    run: Run, tmp_path: Path, name: str, text: str, sentence: str
) -> None:
    path, out = tmp_path / name, tmp_path / "out.csv"
    path.write_text(text)
    code, said = run("ops", path, "--hw", "h100", "-o", out)
    assert (code, said.count("\n")) == (2, 1)
    assert sentence in said
    assert not out.exists()
