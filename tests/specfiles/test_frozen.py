"""Frozen dataclasses made here behave as the standard library's."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import FrozenInstanceError, field, replace
from functools import cached_property
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specfiles.frozen import dataclass


@dataclass(frozen=True)
class Point:
    """Made by the decorator under test."""

    kind: ClassVar[str] = "point"

    x: float
    y: float = 2.0
    tags: tuple[str, ...] = ()
    notes: dict[str, int] = field(default_factory=dict, compare=False)
    hidden: int = field(default=0, repr=False)

    @cached_property
    def length(self) -> float:
        return abs(self.x) + abs(self.y)


Ours = Point


@dataclasses.dataclass(frozen=True)
class Standard:
    """The same fields, made by the standard decorator."""

    kind: ClassVar[str] = "point"

    x: float
    y: float = 2.0
    tags: tuple[str, ...] = ()
    notes: dict[str, int] = field(default_factory=dict, compare=False)
    hidden: int = field(default=0, repr=False)


@dataclass(frozen=True)
class Further(Point):
    """One field more, a check, and words of its own."""

    z: int = 1

    def __post_init__(self) -> None:
        if self.z < 0:
            raise ValueError("below zero")

    def __repr__(self) -> str:
        return "further"


ARGUMENTS = st.fixed_dictionaries(
    {"x": st.floats(-2, 2) | st.integers(-2, 2)},
    optional={
        "y": st.sampled_from([0.0, 2.0, 5.0]),
        "tags": st.sampled_from([(), ("a",)]),
        "notes": st.dictionaries(st.sampled_from("ab"), st.integers(0, 1)),
        "hidden": st.integers(0, 1),
    },
)


@given(ARGUMENTS, ARGUMENTS)
def test_equality_hash_and_text_are_the_standard_ones(first: Any, second: Any) -> None:
    ours, theirs = (Ours(**first), Ours(**second)), (Standard(**first), Standard(**second))
    assert (ours[0] == ours[1]) is (theirs[0] == theirs[1])
    assert [hash(one) for one in ours] == [hash(one) for one in theirs]
    assert repr(ours[0]).replace("Point", "Standard") == repr(theirs[0])
    assert dataclasses.asdict(ours[0]) == dataclasses.asdict(theirs[0])


def test_fields_and_replace_know_it() -> None:
    names = [[one.name for one in dataclasses.fields(kind)] for kind in (Ours, Standard)]
    assert names[0] == names[1]
    assert Ours.__match_args__ == Standard.__match_args__
    assert replace(Ours(1.0), y=7.0) == Ours(1.0, 7.0)
    assert Ours(1.0) != Standard(1.0)
    assert Ours(1.0).notes is not Ours(1.0).notes  # made for each object


@pytest.mark.parametrize("name", ["x", "length", "new"])
def test_nothing_can_be_set_or_deleted(name: str) -> None:
    point = Point(1.0)
    with pytest.raises(FrozenInstanceError, match=name):
        setattr(point, name, 3)
    with pytest.raises(FrozenInstanceError, match=name):
        delattr(point, name)
    assert (point.x, point.length, point.length) == (1.0, 3.0, 3.0)


@pytest.mark.parametrize(("arguments", "said"), [((), "'x'"), ((1, 2, (), {}, 0, 9), "positional")])
def test_wrong_arguments_are_told(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Point(*arguments)
    with pytest.raises(TypeError, match=said):
        Standard(*arguments)


def test_a_class_that_inherits_has_all_fields_and_its_own_methods() -> None:
    assert [one.name for one in dataclasses.fields(Further)][-1] == "z"
    assert Further(1.0, z=3) != Further(1.0, z=4)
    assert repr(Further(1.0)) == "further"
    with pytest.raises(ValueError, match="below"):
        Further(1.0, z=-1)
    with pytest.raises(FrozenInstanceError, match="x"):
        Further(1.0).x = 2.0  # type: ignore[misc]


@pytest.mark.parametrize("point", [Point(1.0, tags=("a",)), Further(1.0, z=2)])
def test_copies_are_equal(point: Point) -> None:
    assert pickle.loads(pickle.dumps(point)) == copy.deepcopy(point) == copy.copy(point) == point


def test_an_empty_class_has_one_value() -> None:
    @dataclass(frozen=True)
    class Nothing:
        """No field."""

    assert Nothing() == Nothing()
    assert hash(Nothing()) == hash(Nothing())
    assert repr(Nothing()).endswith("Nothing()")
