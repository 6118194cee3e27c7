"""One sentence per complaint, with the path of the key and what was expected there."""

from typing import Annotated, Any, Literal

import msgspec
import pytest

from specfiles.errors import InputError
from specfiles.strict import NotNegative, Positive, Strict, Text, plain_data, validated


class Part(Strict, frozen=True, kw_only=True):
    size: Annotated[int, msgspec.Meta(gt=0)]
    weight: Positive = 1.0


class Whole(Strict, frozen=True, kw_only=True):
    name: str
    part: Part
    parts: list[Part] = []
    by_name: dict[str, Part] = {}
    maybe: Part | None = None
    spread: NotNegative | None = None
    text: Text | None = None
    version: Annotated[int, msgspec.Meta(gt=0)] | None = msgspec.field(default=None, name="schema")

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name must not be empty.")


GOOD: dict[str, Any] = {"name": "n", "part": {"size": 1}}


def refusal(data: Any) -> str:
    with pytest.raises(InputError) as error:
        validated(Whole, data, "the file")
    sentence = str(error.value)
    assert sentence.startswith("the file: ")
    assert "\n" not in sentence
    return sentence.removeprefix("the file: ")


def test_a_good_record_is_read_and_frozen() -> None:
    whole = validated(Whole, {**GOOD, "parts": [{"size": 2, "weight": 3}]}, "the file")
    assert whole.parts[0].weight == 3.0
    with pytest.raises(AttributeError):
        whole.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({**GOOD, "nam": 1}, "unknown key 'nam'; did you mean 'name'?"),
        ({**GOOD, "part": {"size": 1, "wieght": 2.0}}, "unknown key 'part.wieght'; did you mean 'weight'?"),
        ({**GOOD, "parts": [{"size": 1, "sise": 2}]}, "unknown key 'parts.0.sise'; did you mean 'size'?"),
        (
            {**GOOD, "by_name": {"x": {"size": 1, "zzz": 2}}},
            "unknown key 'by_name.x.zzz'; known keys: size, weight.",
        ),
        (
            {**GOOD, "maybe": {"size": 1, "wait": 2}},
            "unknown key 'maybe.wait'; did you mean 'weight'? (known keys: size, weight)",
        ),
        ({"name": "n"}, "key 'part' is missing; add it."),
        ({**GOOD, "part": {}}, "key 'part.size' is missing; add it."),
    ],
)
def test_keys(data: Any, said: str) -> None:
    assert refusal(data) == said


@pytest.mark.parametrize(
    ("data", "path", "found"),
    [
        ({**GOOD, "part": {"size": "1"}}, "part.size: expected a whole number, ", "not '1'."),
        ({**GOOD, "part": {"size": True}}, "part.size: ", "not True."),
        ({**GOOD, "part": {"size": 1.5}}, "part.size: ", "not 1.5."),
        ({**GOOD, "part": {"size": 0}}, "part.size: expected a whole number >= 1, ", "not 0."),
        ({**GOOD, "part": {"size": 1, "weight": float("inf")}}, "part.weight: ", "not inf."),
        ({**GOOD, "part": {"size": 1, "weight": float("nan")}}, "part.weight: ", "not nan."),
        ({**GOOD, "name": 5}, "name: expected text, ", "not 5."),
        ({**GOOD, "parts": {"size": 1}}, "parts: expected a list, ", "not {'size': 1}."),
        ({**GOOD, "part": {"size": 1, "weight": 0.0}}, "part.weight: ", "not 0.0."),
        ({**GOOD, "part": {"size": 1, "weight": "1e3"}}, "part.weight: ", "not '1e3'."),
        ({**GOOD, "spread": -0.1}, "spread: ", "not -0.1."),
        ({**GOOD, "text": ""}, "text: ", "not ''."),
        ({**GOOD, "by_name": {"x": {"size": None}}}, "by_name.x.size: ", "not None."),
        ({**GOOD, "parts": [{"size": 1}, {"size": -7}]}, "parts.1.size: ", "not -7."),
    ],
)
def test_values_of_the_wrong_kind_name_their_path(data: Any, path: str, found: str) -> None:
    sentence = refusal(data)
    assert sentence.startswith(path)
    assert sentence.endswith(found)


def test_of_a_few_words_all_are_said() -> None:
    class Step(Strict, frozen=True, kw_only=True):
        phase: Literal["prefill", "decode"]

    with pytest.raises(InputError, match="expected prefill or decode, not 'training'"):
        validated(Step, {"phase": "training"}, "x.yaml")


def test_a_rule_of_the_record_speaks_for_itself() -> None:
    assert refusal({**GOOD, "name": ""}) == "name must not be empty."


def test_a_long_value_is_cut_in_the_sentence() -> None:
    assert len(refusal({**GOOD, "part": {"size": "9" * 10_000}})) < 200


def test_a_record_is_not_a_list() -> None:
    assert "not [1]" in refusal([1])


def test_a_record_goes_back_to_the_data_it_came_from() -> None:
    data = {**GOOD, "parts": [{"size": 2, "weight": 3.0}], "by_name": {"x": {"size": 4, "weight": 1.0}}}
    data |= {"part": {"size": 1, "weight": 1.0}, "schema": 1}
    # Under the names of the file, None left out.
    assert plain_data(validated(Whole, data, "the file")) == data


def test_a_changed_copy_leaves_the_original() -> None:
    part = validated(Part, {"size": 1}, "the file")
    assert (part.replace(size=5).size, part.size) == (5, 1)


def test_a_null_of_the_file_s_own_mapping_stays_and_a_field_that_is_none_is_left_out() -> None:
    """DeepSeek-V2-Lite's config says `q_lora_rank: null`, and a config without the field means 1536."""

    class Item(Strict, frozen=True, kw_only=True):
        size: int | None = None

    class Run(Strict, frozen=True, kw_only=True):
        config: dict[str, Any]
        models: list[Item] = []
        note: str | None = None

    config = {"q_lora_rank": None, "rope": {"factor": None, "kind": "yarn"}, "layers": [None, 1]}
    made = plain_data(Run(config=config, models=[Item(), Item(size=2)]))
    assert made == {"config": config, "models": [{}, {"size": 2}]}
