"""The page as text: whole, closed to the network, and deaf to what names try to say."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from hwspecs import Device
from reports.content import of_predictions, of_run
from reports.escaping import visible
from reports.html import HERE, _breakable, _tight, render
from reports.records import Content
from roofline.predict import predict
from roofline.run import Run
from roofline.scenario import Scenario
from workloads.catalogue import load_model

MakeRun = Callable[..., Run]
EVIL = "<img src=x onerror=alert(1)>"
BREAKOUT = "</script><script>alert(1)</script>"
VOID = {"meta", "br", "wbr", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """The elements of a page, its texts, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.open: list[str] = []
        self.wbr = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.wbr = tag == "wbr"  # what comes behind it is the same word
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attrs, before = self.scripts[-1]
            self.scripts[-1] = (attrs, before + data)
        elif not self.open or self.open[-1] != "style":
            self.texts.append(self.texts.pop() + data if self.wbr else data)
            self.wbr = False

    @property
    def ids(self) -> list[str]:
        return [attrs["id"] or "" for _, attrs in self.tags if "id" in attrs]


@pytest.fixture
def predicted(toy: Device) -> Content:
    return of_predictions([predict(Scenario(load_model("llama-3.2-1b").model), toy)], [toy])


@pytest.fixture
def page(content: Content) -> Page:
    return Page(render(content))


def test_every_element_is_closed_and_every_id_is_single(page: Page) -> None:
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)


def test_links_lead_to_places_on_the_page(page: Page) -> None:
    links = [attrs["href"] or "" for tag, attrs in page.tags if tag == "a"]
    assert links
    assert all(link.startswith("#") and link[1:] in page.ids for link in links)


def test_nothing_is_loaded(page: Page, content: Content) -> None:
    """No element with an address but the links on the page; no address in a style; none in our script."""
    for tag, attrs in page.tags:
        assert not {"src", "srcset", "data", "action", "background", "poster"} & set(attrs), tag
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
    text = render(content)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    own = page.scripts[-1][1]
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(|WebSocket|sendBeacon", own)


def test_the_policy_names_the_scripts_that_are_there(page: Page) -> None:
    policy = next(
        a["content"] or "" for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]
    for attrs, code in page.scripts:
        if attrs.get("type") != "application/json":
            digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy


def test_the_policy_stands_before_everything_it_governs(content: Content) -> None:
    text = render(content)
    assert text.index("Content-Security-Policy") < text.index("<style>") < text.index("<script")


def test_figures_have_a_place_and_places_a_figure(page: Page) -> None:
    data = json.loads(next(code for attrs, code in page.scripts if attrs.get("id") == "figures"))
    places = [attrs["data-figure"] for _, attrs in page.tags if "data-figure" in attrs]
    assert sorted(data["figures"]) == sorted(filter(None, places))
    assert len(places) == 2 * 3 + 2  # roofline and time of three steps, two fidelities


def test_accessible_basics(page: Page) -> None:
    tags = [tag for tag, _ in page.tags]
    assert ("html", {"lang": "en"}) in page.tags
    assert tags.count("h1") == 1
    assert tags.count("main") == 1
    assert tags.count("table") == tags.count("caption")
    assert "noscript" in tags
    figures = [attrs for _, attrs in page.tags if "data-figure" in attrs]
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in figures)
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")


def test_every_section_stands_in_both_kinds_of_report(content: Content, predicted: Content) -> None:
    for report in (content, predicted):
        text = " ".join(Page(render(report)).texts)
        for heading in (
            "Summary", "Roofline", "Where the time goes", "Operators",
            "The same workload on other devices", "Method and sources", "floors, not forecasts",
        ):  # fmt: skip
            assert heading in text


def test_a_prediction_says_that_nothing_was_measured(content: Content, predicted: Content) -> None:
    text = " ".join(Page(render(predicted)).texts)
    assert "nothing: every number is predicted" in text
    assert "Filled" not in text
    assert "Predicted against measured" not in text
    assert "Predicted against measured" in " ".join(Page(render(content)).texts)


def test_the_run_is_described(page: Page) -> None:
    text = " ".join(page.texts)
    for expected in ("random", "eager", "580.1", "roofline profile llama-3.2-1b", "Toy data sheet, table 1"):
        assert expected in text


def test_empty_tables_and_no_content_at_all(make_run: MakeRun, toy: Device) -> None:
    page = Page(render(of_run(make_run(points=()), toy)))
    assert page.open == []
    assert "Nothing was measured." in page.texts
    assert Page(render()).open == []


def test_several_reports_share_a_page_and_no_id(content: Content, predicted: Content) -> None:
    page = Page(render(content, predicted))
    assert len(set(page.ids)) == len(page.ids)
    assert [tag for tag, _ in page.tags].count("article") == 2


@pytest.mark.parametrize(
    "evil", [EVIL, BREAKOUT, "{{ 7 * 7 }}", '" onmouseover="alert(1)', "\x00\ud800\u202e"]
)
def test_hostile_names_are_text_everywhere(
    make_run: MakeRun, make_device: Callable[..., Device], evil: str
) -> None:
    name = evil.encode("utf-8", "ignore").decode()  # Parquet knows no lone surrogates
    run = make_run(
        rename={"lm_head": name}, model=evil, weights=evil, mode=evil, command=evil, notes=[evil],
        environment={evil: {evil: [evil]}},
    )  # fmt: skip
    device = make_device(name=evil, conflicts=[evil], sources={"sheet": evil, "fit": evil})
    page = Page(render(of_run(run, device, [device])))
    assert page.open == []
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert f"{visible(evil)} on {visible(evil)}" in page.texts
    assert "\u202e" not in "".join(page.texts)
    assert render(of_run(run, device)).encode("utf-8")


def test_line_endings_of_a_checkout_do_not_break_the_policy(content: Content) -> None:
    assert "\r" not in render(content)


def test_the_page_stays_small(content: Content) -> None:
    assert len(render(content).encode()) < 1.6e6


def test_the_vendored_library_brings_its_licence() -> None:
    assets = HERE / "assets"
    assert (
        "plotly.js (basic - minified) v" in (assets / "plotly-basic.min.js").read_text(encoding="utf-8")[:200]
    )
    assert "MIT License" in (assets / "plotly-basic.LICENSE.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("layers.mlp.gate_proj", "layers.<wbr>mlp.<wbr>gate_proj"),
        ("aten::native_layer_norm", "aten::<wbr>native_<wbr>layer_<wbr>norm"),
        ("copy_", "copy_"),
        ("<b>_x", "&lt;b&gt;_<wbr>x"),
    ],
)
def test_long_names_break_between_their_words(name: str, shown: str) -> None:
    assert str(_breakable(name)) == shown


def test_commands_in_prose_are_code_and_other_people_s_tags_are_not() -> None:
    assert _tight("5 % by `a -o b`") == "5\u00a0% by <code>a -o b</code>"
    assert _tight("`<b>` \u202e`") == "<code>&lt;b&gt;</code> \ufffd`"
