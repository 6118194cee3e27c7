"""One sentence per complaint, with the path of the key and what was expected there."""

from typing import Any

import pytest
from pydantic import Field, model_validator

from specfiles.errors import InputError
from specfiles.strict import Strict, validated


class Part(Strict):
    size: int = Field(gt=0)
    weight: float = 1.0


class Whole(Strict):
    name: str
    part: Part
    parts: list[Part] = Field(default=[])
    by_name: dict[str, Part] = Field(default={})

    @model_validator(mode="after")
    def _not_empty(self) -> "Whole":
        if not self.name:
            raise ValueError("name must not be empty.")
        return self


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
    with pytest.raises(ValueError, match="frozen"):
        whole.name = "other"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({**GOOD, "nam": 1}, "unknown key 'nam'; did you mean 'name'?"),
        (
            {**GOOD, "part": {"size": 1, "wieght": 2.0}},
            "unknown key 'part.wieght'; did you mean 'weight'?",
        ),
        ({**GOOD, "parts": [{"size": 1, "sise": 2}]}, "unknown key 'parts.0.sise'; did you mean 'size'?"),
        (
            {**GOOD, "by_name": {"x": {"size": 1, "zzz": 2}}},
            "unknown key 'by_name.x.zzz'; known keys: size, weight.",
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
        ({**GOOD, "part": {"size": "1"}}, "part.size: ", "not '1'."),
        ({**GOOD, "part": {"size": True}}, "part.size: ", "not True."),
        ({**GOOD, "part": {"size": 1.5}}, "part.size: ", "not 1.5."),
        ({**GOOD, "part": {"size": 0}}, "part.size: ", "not 0."),
        ({**GOOD, "part": {"size": 1, "weight": float("inf")}}, "part.weight: ", "not inf."),
        ({**GOOD, "part": {"size": 1, "weight": float("nan")}}, "part.weight: ", "not nan."),
        ({**GOOD, "name": 5}, "name: ", "not 5."),
        ({**GOOD, "parts": {"size": 1}}, "parts: ", "not {'size': 1}."),
        ({**GOOD, "parts": [{"size": 1}, {"size": -7}]}, "parts.1.size: ", "not -7."),
    ],
)
def test_values_of_the_wrong_kind_name_their_path(data: Any, path: str, found: str) -> None:
    sentence = refusal(data)
    assert sentence.startswith(path)
    assert sentence.endswith(found)


def test_a_rule_of_the_record_speaks_for_itself() -> None:
    assert refusal({**GOOD, "name": ""}) == "name must not be empty."


def test_a_long_value_is_cut_in_the_sentence() -> None:
    assert len(refusal({**GOOD, "part": {"size": "9" * 10_000}})) < 200


def test_a_record_is_not_a_list() -> None:
    assert "not [1]" in refusal([1])
