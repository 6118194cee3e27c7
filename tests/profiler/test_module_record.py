"""A user's module measured on this machine's CPU: what a run of it says, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from hwspecs import Device, load_device
from reports.content import of_run
from reports.show import as_text
from roofline.run import Run, open_run
from roofline.validate import scenario_of, validate
from specfiles.errors import InputError
from workloads.phases import operators, prefill

torch = pytest.importorskip("torch")
from profiler.module_record import ModuleRequest, profile_module  # noqa: E402
from profiler.module_run import quiet_inputs, time_passes, watch  # noqa: E402
from profiler.module_source import built, names_module  # noqa: E402
from profiler.module_trace import trace  # noqa: E402
from profiler.repeats import Effort  # noqa: E402
from profiler.traces.measured import show_measured  # noqa: E402
from roofline.ceilings import Fidelity, ceilings  # noqa: E402

SOURCE = """
import random
import torch
from torch import nn


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(32, 96), nn.GELU(), nn.Linear(96, 32))

    def forward(self, x, mask=None):
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.norm(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.layers = nn.ModuleList([Layer() for _ in range(3)])
        self.spare = nn.Linear(2, 2)

    def forward(self, tokens, mask=None):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, mask)
        return x


def build():
    return Net(), torch.randint(50, (2, 12))


def masked():
    return Net(), {"tokens": torch.randint(50, (2, 12)), "mask": torch.zeros(12, 12)}


def narrow():
    return Net().bfloat16(), torch.randint(50, (2, 12))


def bare():
    with torch.device("meta"):
        return nn.Linear(8, 4), torch.zeros(3, 8)


def mixed():
    with torch.device("meta"):
        lost = nn.Linear(8, 4)
    return nn.Sequential(nn.Linear(8, 8), lost), torch.zeros(3, 8)


class Fickle(nn.Module):
    calls = 0

    def forward(self, x):
        Fickle.calls += 1
        return x.exp() if Fickle.calls % 2 else x.exp().sin()


class Grows(nn.Module):
    calls = 0

    def forward(self, x):
        Grows.calls += not x.is_meta
        if Grows.calls > 4:
            raise OSError("the fifth pass breaks\\nfor a reason")
        return x.exp()


class Nothing(nn.Module):
    def forward(self, x):
        return x


def fickle():
    return Fickle(), torch.zeros(3)


def grows():
    return Grows(), torch.randn(3)


def nothing():
    return Nothing(), torch.zeros(3)


def three():
    return 3


def raises():
    raise RuntimeError("no luck\\non two lines")


def ends():
    raise SystemExit("done here")
"""


@pytest.fixture
def users(brief: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("profiler.alone.last_level_cache_bytes", lambda _: 1 << 18)
    (tmp_path / "users_net.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "users_net", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


@pytest.fixture
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def profiled(function: str, repeats: int = 3, **options: Any) -> Run:
    hardware = load_device("a100_sxm")
    return profile_module(
        ModuleRequest(f"users_net:{function}", "cpu", Path("run"), hardware, Effort(repeats), **options)
    )


def forget(monkeypatch: pytest.MonkeyPatch, users: Path) -> None:
    """The user's file is gone, and so is what was imported."""
    (users / "users_net.py").unlink()
    monkeypatch.delitem(sys.modules, "users_net")


def test_a_run_needs_no_code_of_its_user(
    users: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every traced operator is measured, as often as it ran; all read from the folder alone."""
    profiled("build")
    forget(monkeypatch, users)
    run, device = open_run(Path("run")), load_device("run/device.yaml")
    assert run.head.status == "complete"
    checked = validate(run, device, Fidelity.DATASHEET)
    assert checked.unmatched.empty
    assert content_says_pass(run, device)
    traced = operators(scenario_of(run).model, prefill(1, 1))
    assert dict(zip(checked.matched["name"], checked.matched["count"], strict=True)) == {
        entry.name: entry.count for entry in traced
    }
    measured, alone = (
        run.table("operators").query("where == @place").set_index("name") for place in ("model", "alone")
    )
    assert {"layers.mlp.addmm", "layers.attention.scaled_dot_product_attention"} <= set(alone.index)
    assert (alone["median_s"] > 0).all()
    assert measured.loc["layers.mlp.addmm", "count"] == 3
    assert measured.loc["embed.embedding", "count"] == 1
    for entry in traced:  # a layout of attention's results may save a copy on this device
        often = measured.loc[entry.name, "count"]
        said = f"{entry.name} ran {often} times, {entry.count} times in the trace" in " ".join(run.head.notes)
        assert said == (often != entry.count)
    assert (measured["median_s"] > 0).all()
    assert "6 parameters are in memory" in " ".join(run.head.notes)
    content = of_run(run, device, advise=True)
    assert "traced module" in content.advice[0].missing
    shown = show_measured(run, "operator", ceilings(device, Fidelity.DATASHEET))
    flops = {row["name"]: row["flops"] for row in shown["rows"]}
    assert flops["layers.mlp.addmm"] == 3 * 2 * (2 * 12) * 32 * 96
    assert as_text(shown).startswith(f"users_net:build in fp32, eager, measured on {run.head.device}")
    assert "users_net" not in sys.modules


def content_says_pass(run: Run, device: Device) -> bool:
    """A module has passes, no tokens and no time to the first of them."""
    content = of_run(run, device)
    labels = [card.label for card in content.cards]
    words = " ".join([*labels, *content.sentences, content.points[0].title])
    return labels[:2] == ["One pass", "Passes/s"] and not {"TTFT", "tokens/s"} & set(words.split())


def test_reference_steps_stand_beside_the_passes(users: Path, one_thread: None) -> None:
    """One after each pass, so that the machine's drift is known of a module, too; `--no-alone` is heard."""
    run = profiled("build", 3, alone=False)
    (row,) = run.table("references").to_dict("records")
    assert (row["model"], row["phase"], row["dtype"], row["repeats"]) == ("yardstick-d", "prefill", "fp32", 3)
    assert 0 < row["layers_s"] < row["median_s"]
    assert set(run.table("operators")["where"]) == {"model"}


def test_operators_of_a_pass_fit_into_it(users: Path, one_thread: None) -> None:
    """In every single pass, by the thread's clock; and whole passes are timed plain as often."""
    watched = watch("users_net:build", "cpu", trace("users_net:build").calls, True, seed=0)
    *_, timed = islice(time_passes(watched), 4)
    assert len(timed.plain) == len(timed.ranged) == 4
    for at, whole in enumerate(timed.ranged):
        assert 0 < sum(times[at] for times in timed.ranges.values()) < whole


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        ("masked", "layers.attention.scaled_dot_product_attention + attention_mask"),
        # A bf16 layer norm on a CPU keeps its mean in bf16, the meta device in fp32.
        ("narrow", "layers.norm.native_layer_norm"),
    ],
)
def test_masks_and_side_results_belong_to_their_operators(users: Path, function: str, operator: str) -> None:
    checked = validate(profiled(function, 1), load_device("a100_sxm"), Fidelity.DATASHEET)
    assert checked.unmatched.empty
    assert operator in set(checked.matched["name"])


def test_an_operation_that_the_trace_has_not_is_listed(users: Path) -> None:
    """The trace ran the pass once, so that the next pass does one operation more."""
    calls = trace("users_net:fickle").calls
    sys.modules["users_net"].Fickle.calls = 0  # two passes follow: warm-up, then the one that is heard
    watched = watch("users_net:fickle", "cpu", calls, True, seed=0)
    assert watched.counts == Counter({"exp": 1, "sin": 1})
    with pytest.raises(InputError, match="passes run different operations each time"):
        next(time_passes(watched))


def test_what_stops_the_measurement_leaves_what_was_measured(
    users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("profiler.module_record.warm_passes", lambda *_: 0)  # each would count
    with pytest.raises(InputError, match="running it on cpu failed: OSError: the fifth pass breaks"):
        profiled("grows", 9)
    run = open_run(Path("run"))
    assert run.head.status == "failed"
    assert "the fifth pass breaks" in run.head.notes[-1]
    assert list(run.table("operators")["name"]) == ["exp"]
    assert not validate(run, load_device("a100_sxm"), Fidelity.DATASHEET).matched.empty


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("three", "users_net:three returned int; expected .module, inputs."),
        ("raises", "users_net:raises: building it failed: RuntimeError: no luck.$"),
        ("ends", "users_net:ends: building it failed: SystemExit: done here.$"),
        ("nothing", "runs no operation on its inputs"),
        ("mixed", "makes 2 of 4 weights and buffers on the meta device"),
        ("biuld", "no function of users_net named 'biuld'; did you mean build"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence_and_no_folder(function: str, said: str, users: Path) -> None:
    with pytest.raises(InputError, match=said) as error:
        profiled(function)
    assert "\n" not in str(error.value)
    assert not Path("run").exists()


def test_what_was_made_without_data_gets_random_data(users: Path) -> None:
    torch.manual_seed(0)
    made = built("users_net:bare", "cpu")
    assert made().shape == (3, 4)
    tensors = [*made.module.parameters(), *made.args]
    assert all(t.device.type == "cpu" and t.isfinite().all() and t.std() > 0 for t in tensors)
    assert not quiet_inputs(made)
    assert quiet_inputs(built("users_net:masked", "cpu"))


def test_the_command_measures_a_module_and_refuses_what_its_function_decides(
    users: Path, roofline: Callable[..., Any]
) -> None:
    done = roofline("profile", "users_net:build", "-o", "run", "--device", "cpu", "--repeats", 2)
    assert (done.code, done.out) == (0, "")
    assert done.err.endswith("run written to run\n")
    shown = json.loads(roofline("show", "run", "--hw", "a100_sxm", "--format", "json").out)
    assert "layers.mlp.gelu" in [row["name"] for row in shown["rows"]]
    for flag, value in (("--batch", 4), ("--dtype", "bf16"), ("--with", "kv-int8"), ("--phase", "decode")):
        refused = roofline("profile", "users_net:build", "-o", "other", flag, value)
        assert refused.code == 2
        assert f"{flag} does not go with users_net:build" in refused.err
    assert roofline("profile", "users_net:raises", "-o", "other", "--device", "cpu").code == 2
    assert roofline("report", "run", "--hw", "a100_sxm", "--others", "l4", "-o", "r.html").code == 0
    assert "users_net:build" in Path("r.html").read_text()
    assert not Path("other").exists()


def test_only_a_module_and_a_function_name_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names_module("my_model:build")
    assert names_module("pack.my_model:build")
    for words in ("Llama-3.1-8B", "folder/config.json", "llama3:8b", "C:\\model", "my-model:build", "a:b:c"):
        assert not names_module(words)
    monkeypatch.chdir(tmp_path)
    Path("my_model:build").write_text("{}")
    assert not names_module("my_model:build")
