"""A traced module against its description, against torch's counter, and against counting on paper."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from specfiles.errors import InputError
from workloads.catalogue import load_model
from workloads.config import Config
from workloads.convention import convention
from workloads.families import build
from workloads.operators import Attention, Embedding, Gemm
from workloads.phases import Named, Setting, operators, parameters, prefill

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from profiler.module_trace import TracePass, trace  # noqa: E402

Trace = Callable[..., TracePass]
COUNTER = Setting(convention=convention("flop-counter"))


@pytest.fixture
def traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trace:
    """Trace what a function returns, through a module of the current directory as a user would have."""
    monkeypatch.chdir(tmp_path)

    def run(made: Callable[[], Any], causal_exact: bool = False) -> TracePass:
        monkeypatch.setitem(sys.modules, "users_own", type(sys)("users_own"))
        sys.modules["users_own"].build = made  # type: ignore[attr-defined]
        return trace("users_own:build", causal_exact)

    return run


def rows(found: TracePass) -> list[Named]:
    return operators(found.model, prefill(1, 1), COUNTER)


def flops(found: list[Named]) -> int:
    return sum(row.count * row.operator.work().matrix_flops for row in found)


def gemms(found: list[Named]) -> dict[Any, int]:
    """How often each product with a weight runs, by its shape and format."""
    counts: dict[Any, int] = {}
    for row in found:
        if isinstance(row.operator, Gemm):
            counts[row.operator] = counts.get(row.operator, 0) + row.count
    return counts


SIZES = {"hidden_size": 60, "num_hidden_layers": 3, "num_attention_heads": 6, "vocab_size": 101}
DESCRIBED: list[tuple[str, dict[str, Any]]] = [
    ("llama", {**SIZES, "num_key_value_heads": 2, "intermediate_size": 77, "tie_word_embeddings": False}),
    ("qwen3", {**SIZES, "num_key_value_heads": 2, "intermediate_size": 77, "head_dim": 22}),
    ("gpt2", {"n_embd": 60, "n_layer": 3, "n_head": 6, "vocab_size": 101, "n_positions": 128}),
    ("bert", {**SIZES, "intermediate_size": 77}),
]


@pytest.mark.parametrize(("family", "fields"), DESCRIBED, ids=[family for family, _ in DESCRIBED])
def test_a_trace_and_a_description_of_one_model_agree(
    family: str, fields: dict[str, Any], traced: Trace
) -> None:
    """FLOP of all matrix products, every product with a weight to its bytes, attention, parameters."""
    transformers = pytest.importorskip("transformers")
    kind = transformers.AutoModel if family == "bert" else transformers.AutoModelForCausalLM

    def made() -> Any:
        network = kind.from_config(transformers.AutoConfig.for_model(family, **fields), dtype=torch.bfloat16)
        inputs: dict[str, Any] = {"input_ids": torch.zeros(2, 48, dtype=torch.long)}
        return network, inputs if family == "bert" else {**inputs, "logits_to_keep": 1}

    found = traced(made)
    seen = rows(found)
    model = build(Config({"model_type": family, **fields}, "test"), "test")
    described = operators(model, prefill(2, 48), COUNTER)
    assert found.dtype == "bf16"
    assert parameters(found.model) == parameters(model)
    assert flops(seen) == flops(described)
    assert gemms(seen) == gemms(described)  # equal operators move equal bytes
    pairs = [[r for r in side if isinstance(r.operator, Attention)] for side in (seen, described)]
    assert flops(pairs[0]) == flops(pairs[1]) > 0


def networks() -> dict[str, Callable[[], Any]]:
    layer = lambda: nn.TransformerEncoderLayer(64, 4, batch_first=True)  # noqa: E731
    return {
        "convolutions": lambda: (
            nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(16, 8, 3, groups=4)),
            torch.zeros(2, 3, 17, 19),
        ),
        "transposed": lambda: (nn.ConvTranspose2d(6, 4, 3, stride=2), torch.zeros(2, 6, 9, 7)),
        "attention": lambda: (nn.TransformerEncoder(layer(), 2), lambda: torch.zeros(2, 10, 64)),
        "recurrent": lambda: (nn.GRUCell(12, 7), (torch.zeros(5, 12), torch.zeros(5, 7))),
    }


@pytest.mark.parametrize("name", list(networks()))
def test_products_are_those_that_torch_counts(name: str, traced: Trace) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    made = networks()[name]
    with torch.device("meta"):
        module, inputs = made()
        inputs = inputs() if callable(inputs) and not isinstance(inputs, torch.Tensor) else inputs
    inputs = (inputs,) if isinstance(inputs, torch.Tensor) else inputs
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(*inputs)
    torch.backends.mha.set_fastpath_enabled(fast)
    found = traced(made)
    assert flops(rows(found)) == counter.get_total_flops() > 0
    assert parameters(found.model) == sum(p.numel() for p in module.parameters())


def test_attention_inside_a_library_function_is_one_operator(traced: Trace) -> None:
    kinds = [row.operator.kind for row in rows(traced(networks()["attention"]))]
    assert kinds.count("attention") == 1
    assert not [row for row in rows(traced(networks()["attention"])) if "softmax" in row.name]


def test_bytes_and_flop_of_a_chain_on_paper(traced: Trace) -> None:
    """x @ W, then exp, then a sum: 4-byte elements; the transpose and the view cost nothing."""

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 4, bias=False)

        def forward(self, x: Any) -> Any:
            return self.linear(x).t().reshape(4, 3).exp().sum(dim=1)

    found = {row.name: row.operator for row in rows(traced(lambda: (Chain(), torch.zeros(3, 8))))}
    assert list(found) == ["linear.mm", "exp", "sum"]
    assert found["linear.mm"] == Gemm(3, 4, 8, "fp32", "fp32", "fp32")
    exp, total = found["exp"].work(), found["sum"].work()
    assert (exp.bytes, exp.special_ops, exp.flops) == (2 * 12 * 4, 12, 0)
    assert (total.bytes, total.flops) == ((12 + 4) * 4, 12)


def test_in_place_operations_read_what_they_change_and_not_what_they_overwrite(traced: Trace) -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.zeros(128))

        def forward(self, x: Any) -> Any:
            self.kept.copy_(x)
            return torch.empty_like(x).uniform_() + self.kept.relu_().mul_(2.0)

    moved = {row.name: row.operator.work().bytes for row in rows(traced(lambda: (Keeps(), torch.randn(128))))}
    assert moved == {"copy_": 1024, "uniform_": 512, "relu_": 1024, "mul_": 1024, "add": 1536}


def test_a_matrix_that_is_used_twice_is_owned_once(traced: Trace) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(11, 6)
            self.spare = nn.Linear(5, 5)

        def forward(self, tokens: Any) -> Any:
            return self.table(tokens) @ self.table.weight.t()

    found = traced(lambda: (Tied(), torch.zeros(2, 3, dtype=torch.long)))
    by_kind = {type(row.operator): row.operator for row in rows(found)}
    assert by_kind[Embedding].parameters() == 66
    assert by_kind[Gemm].parameters() == 0
    assert parameters(found.model) == 66 + 30  # with what is in memory and not used
    assert "30 parameters are in memory and not used" in found.notes[-1]


def test_what_is_not_known_is_listed_and_moves_its_bytes(traced: Trace) -> None:
    class Odd(nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.linalg.qr(x)[0]

    found = traced(lambda: (Odd(), torch.zeros(8, 8)))
    assert "linalg_qr (x1)" in found.notes[-1]
    (row,) = rows(found)
    assert row.operator.work().bytes == 3 * 8 * 8 * 4  # the input, Q and R


class Looks(nn.Module):
    def forward(self, x: Any) -> Any:
        return x if x.sum().item() > 0 else -x


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: 3, "users_own:build returned int; expected .module, inputs."),
        (lambda: (nn.ReLU(), (), {}), "returned tuple of 3; expected .module, inputs."),
        (lambda: (nn.ReLU(), 5), "returned inputs of type int; expected a tensor, a tuple or a mapping"),
        (lambda: (nn.Linear(4, 4), torch.zeros(2, 5)), "running it on the meta device failed: RuntimeError"),
        (lambda: (Looks(), torch.zeros(3)), "its control flow depends on data"),
        (lambda: 1 / 0, "building it failed: ZeroDivisionError: division by zero"),
    ],
)
def test_what_cannot_be_traced_is_one_sentence(made: Callable[[], Any], said: str, traced: Trace) -> None:
    with pytest.raises(InputError, match=said) as error:
        traced(made)
    assert "\n" not in str(error.value)


class Casting(nn.Module):
    """A product under autocast, of the device that the inputs are on or of another."""

    def __init__(self, device: str = "") -> None:
        super().__init__()
        self.device, self.product = device, nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        with torch.autocast(self.device or x.device.type, dtype=torch.bfloat16):
            return self.product(x)


def test_autocast_is_named_where_it_cannot_be_traced(traced: Trace) -> None:
    with pytest.raises(InputError, match=r"no torch\.autocast there; cast the module and its inputs instead"):
        traced(lambda: (Casting(), torch.randn(2, 4)))
    (note,) = (n for n in traced(lambda: (Casting("cpu"), torch.randn(2, 4))).notes if "autocast" in n)
    assert "in the formats of its weights and inputs" in note
    plain = traced(lambda: (nn.Linear(4, 4), torch.randn(2, 4)))
    assert not any("autocast" in n for n in plain.notes)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("mine", "'mine' names no function; expected module:function"),
        ("nowhere_at_all:f", "no module named 'nowhere_at_all'"),
        ("mine:biuld", "no function of mine named 'biuld'; did you mean build"),
        ("broken:f", "importing broken failed: SyntaxError"),
        ("needy:f", "importing needy failed: No module named 'absent_package'"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(
    target: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("def build(): pass\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "needy.py").write_text("import absent_package\n")
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "broken", "needy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    before = list(sys.path)
    with pytest.raises(InputError, match=said):
        trace(target)
    assert sys.path == before


def build_small() -> Any:
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)), torch.zeros(3, 8)


def test_a_traced_module_is_predicted_as_any_model(traced: Trace) -> None:
    """The same rows, totals and memory; and no operator is fused that was not seen fused."""
    from hwspecs import load_device
    from profiler.module_predict import predict_module
    from roofline.asked import Asked
    from roofline.ceilings import Fidelity
    from roofline.tables import as_json

    traced(build_small)  # stands as users_own:build from here on
    device = load_device("a100_sxm")
    data = as_json(predict_module("users_own:build", Asked(), device, Fidelity.DATASHEET))
    assert (data["family"], data["model"], data["phase"]) == ("traced", "users_own:build", "prefill")
    assert [row["name"] for row in data["operators"]] == ["addmm", "gelu", "addmm.2"]
    assert data["totals"]["weights_bytes"] == 4 * (8 * 16 + 16 + 16 * 4 + 4)
    assert data["totals"]["flops"] == 2 * 3 * (8 * 16 + 16 * 4)  # GELU is counted as special functions
    assert data["totals"]["kv_cache_bytes"] == 0
    for asked, said in (
        (Asked(batch=4), "--batch does not go with --from-module"),
        (Asked(techniques=("x",)), "--with does not go with --from-module"),
        (Asked(convention="fused"), "convention of a traced module"),
    ):
        with pytest.raises(InputError, match=said):
            predict_module("users_own:build", asked, device, Fidelity.DATASHEET)


def test_torch_is_left_as_it_was(traced: Trace) -> None:
    original = nn.functional.scaled_dot_product_attention
    with pytest.raises(InputError):
        traced(lambda: (Looks(), torch.zeros(3)))
    assert nn.functional.scaled_dot_product_attention is original
    assert load_model("GPT-2").model.family == "gpt2"
