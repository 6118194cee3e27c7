"""Spec files come from anywhere: what is read is bounded, safe and complained about in one sentence."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specfiles.errors import InputError
from specfiles.reading import MOST_DEPTH, parse_json, parse_yaml, read_json, read_text, read_yaml

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def refusal(text: str, read: Any = parse_json) -> str:
    with pytest.raises(InputError) as error:
        read(text, "the file")
    sentence = str(error.value)
    assert sentence.startswith("the file: ")
    assert "\n" not in sentence
    return sentence


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=4))
def test_json_means_what_it_says(data: dict[str, Any]) -> None:
    import json

    assert parse_json(json.dumps(data), "the file") == data


def test_yaml_means_what_it_says() -> None:
    text = "a: 1\nb: [x, 2.5e+3, true, null]\nc: {d: 'e: f'}\n"
    assert parse_yaml(text, "the file") == {"a": 1, "b": ["x", 2500.0, True, None], "c": {"d": "e: f"}}


@pytest.mark.parametrize("read", [parse_json, parse_yaml])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "expected a mapping of keys to values, found list"),
        ("null", "expected a mapping of keys to values, found nothing"),
        ('"text"', "expected a mapping of keys to values, found str"),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' stands twice"),
        ('{"outer": {"b": 2, "b": 2}}', "key 'b' stands twice"),
    ],
)
def test_what_is_no_spec_is_refused(read: Any, text: str, said: str) -> None:
    assert said in refusal(text, read)


def test_broken_json_names_the_line() -> None:
    assert "line 3" in refusal('{"a": 1,\n "b": 2,\n "c" }')


def test_broken_yaml_names_the_line() -> None:
    assert "line 2" in refusal("a: 1\nb: c: d\n", parse_yaml)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x 1\nb: *x", "aliases are not accepted"),
        ("a: &x [1]\nb: {<<: *x}", "aliases are not accepted"),
        ("a: !!python/object/apply:os.getcwd []", "python/object"),
        ("? [1, 2]\n: 3", "not valid YAML"),
        ("a: 2024-99-99", "not valid YAML"),
        ("a: 1\n--- \nb: 2", "not valid YAML"),
    ],
)
def test_yaml_beyond_plain_values_is_refused(text: str, said: str) -> None:
    assert said in refusal(text, parse_yaml)


def nested(levels: int) -> str:
    """A mapping with lists inside it, `levels` containers deep."""
    return '{"a": ' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


@pytest.mark.parametrize("read", [parse_json, parse_yaml])
def test_depth_is_bounded(read: Any) -> None:
    assert read(nested(MOST_DEPTH), "the file")
    assert f"nested deeper than {MOST_DEPTH} levels" in refusal(nested(MOST_DEPTH + 1), read)


def test_json_deeper_than_the_stack_is_refused() -> None:
    assert "nested deeper" in refusal(nested(200_000))


def test_size_is_bounded_before_reading(tmp_path: Path) -> None:
    file = tmp_path / "big"
    file.write_bytes(b"x" * 101)
    with pytest.raises(InputError, match=r"101 bytes is too large for a spec file \(at most 100\)"):
        read_text(file, most_bytes=100)
    assert read_text(file, most_bytes=101) == "x" * 101


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "windows.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(file) == {"a": 1}


def test_what_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes("name: Größe".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read_yaml(file)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such file\."):
        read_text(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a folder, expected a file"):
        read_text(tmp_path)
