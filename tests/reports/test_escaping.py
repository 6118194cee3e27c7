"""Hostile text is shown, never obeyed."""

from __future__ import annotations

import json

import pytest

from reports.escaping import json_for_script, plotly_text, visible

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "a\u2028b\u2029c",
    "\x00\x1b[31m\x7f",
    "\ud800",
    "\u202eevil",
    "{{ 7 * 7 }}{% raw %}",
    "%{x} $\\alpha$ &lt;b&gt;",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_json_cannot_leave_its_script_element_and_survives(text: str) -> None:
    embedded = json_for_script({text: [text]})
    assert not set("<>&\u2028\u2029") & set(embedded)
    assert embedded.isascii()
    assert json.loads(embedded) == {text: [text]}


@pytest.mark.parametrize("text", HOSTILE)
def test_plotly_sees_no_tag_and_no_entity_of_the_text(text: str) -> None:
    shown = plotly_text(text)
    assert "<" not in shown
    assert ">" not in shown
    assert "&lt;b&gt;" not in shown or "&amp;lt;" in shown


@pytest.mark.parametrize("text", HOSTILE)
def test_visible_text_can_be_written_as_utf8_on_one_line(text: str) -> None:
    shown = visible(text)
    assert shown.encode("utf-8")
    assert len(shown.splitlines()) == 1
    assert "\u202e" not in shown


def test_plain_names_are_left_alone() -> None:
    assert visible("layers.mlp.up_proj – µs × 2") == "layers.mlp.up_proj – µs × 2"
    assert plotly_text("layers.mlp.up_proj") == "layers.mlp.up_proj"


def test_long_names_are_cut_before_they_are_escaped() -> None:
    assert plotly_text("<" * 200, 4) == "&lt;&lt;&lt;…"


def test_numbers_that_json_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_for_script([float("nan")])
