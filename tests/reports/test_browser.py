"""The page in a real browser: drawn, quiet, closed, sortable, narrow, dark, on paper."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwspecs import Device
from reports.content import of_predictions, of_run
from reports.html import render
from reports.records import Content
from roofline.predict import predict
from roofline.run import Run
from roofline.scenario import Scenario
from workloads.catalogue import load_model

pytestmark = pytest.mark.browser
NAMES = ("chromium", "chromium-browser", "google-chrome")
EVIL = "<img src=x onerror=alert(1)>"
BREAKOUT = "</script><script>alert(1)</script>"
PATIENCE_S = 600.0  # for a machine that draws in software while others keep it busy
LINK = '<a href="javascript:alert(1)">click</a>'


def _chromium() -> str | None:
    return os.environ.get("ROOFLINE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = _chromium()
    if found is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} on the path, ROOFLINE_CHROMIUM not set")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu"], timeout=PATIENCE_S * 1e3
        )
        yield browser
        browser.close()


class Opened:
    """A page and everything that it did unasked."""

    def __init__(self, browser: Any, file: Path, **context: Any) -> None:
        self.page = browser.new_context(**context).new_page()
        self.page.set_default_timeout(PATIENCE_S * 1e3)
        self.complaints: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", self._requested)
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-drawn]", state="attached")

    def _dismiss(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _requested(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")) or request.resource_type != "document":
            self.complaints.append(f"request: {request.url}")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.page.evaluate(script, *arguments)

    def marks(self, figure: str) -> int:
        return len(self.page.query_selector_all(f'[data-figure="{figure}"] .scatterlayer path.point'))


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    pages: list[Opened] = []

    def open_page(content: Content, **context: Any) -> Opened:
        file = tmp_path / f"report{len(pages)}.html"
        file.write_text(render(content), encoding="utf-8")
        pages.append(Opened(browser, file, **context))
        return pages[-1]

    yield open_page
    for opened in pages:
        opened.page.context.close()


def test_quiet_and_closed(opened: Callable[..., Opened], content: Content) -> None:
    page = opened(content)
    page.page.wait_for_timeout(200)
    assert page.complaints == []


def test_no_button_of_a_figure_uploads_it(opened: Callable[..., Opened], content: Content) -> None:
    bar = opened(content).page.query_selector(".modebar")
    titles = [button.get_attribute("data-title") for button in bar.query_selector_all("button")]
    assert titles == ["Download plot as a PNG", "Reset axes"]


def test_a_mark_per_operator_on_each_side(opened: Callable[..., Opened], content: Content) -> None:
    page = opened(content)
    for index in (0, 1):
        drawn = sum(o.drawable for o in content.points[index].operators)
        assert page.marks(f"r0-roofline-{index}") == 2 * drawn
    pairs = {c.fidelity: len(c.pairs) for c in content.comparisons}
    assert page.marks("r0-accuracy-measured") == pairs["measured"]
    bars = page.page.query_selector_all('[data-figure="r0-time-0"] .bars path')
    assert len(bars) == 2 * len(content.points[0].operators) + 1  # and the unattributed rest


def test_folded_figures_are_drawn_when_opened(opened: Callable[..., Opened], content: Content) -> None:
    page = opened(content)
    assert page.marks("r0-roofline-2") == 0
    page.page.click("#r0-roofline ~ details summary")
    page.page.wait_for_selector('[data-figure="r0-roofline-2"] path.point')
    width = page.run(
        "document.querySelector('[data-figure=r0-roofline-2] svg').getBoundingClientRect().width"
    )
    assert width > 600


def test_hovering_tells_name_time_and_bound(opened: Callable[..., Opened], content: Content) -> None:
    page = opened(content)
    text = _hover(page, "r0-roofline-0", 0)
    assert any(o.name in text for o in content.points[0].operators)
    for expected in ("FLOP/B", "FLOP/s", "bound:", "of the time", "of its ceiling"):
        assert expected in text


def _hover(page: Opened, figure: str, number: int) -> str:
    """The hover box of a mark; its middle may be covered by another, whose text does as well."""
    mark = page.page.query_selector_all(f'[data-figure="{figure}"] .scatterlayer path.point')[number]
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    page.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.page.wait_for_selector(".hovertext")
    return " ".join(page.run("[...document.querySelectorAll('.hovertext')].map(e => e.textContent)"))


def _column(page: Opened, number: int) -> list[float]:
    script = """n => [...document.querySelectorAll('[aria-labelledby=r0-operators] table')[0].tBodies[0].rows]
                     .map(row => Number(row.cells[n].dataset.value))"""
    return page.run(script, number)


def test_tables_sort_both_ways_by_number_and_by_name(opened: Callable[..., Opened], content: Content) -> None:
    page = opened(content)
    headers = page.page.query_selector_all("[aria-labelledby=r0-operators] table:first-of-type thead th")
    names = [header.text_content() for header in headers]
    flops = names.index("FLOP")
    headers[flops].query_selector("button").click()
    assert _column(page, flops) == sorted(_column(page, flops), reverse=True)
    assert headers[flops].get_attribute("aria-sort") == "descending"
    headers[flops].query_selector("button").click()
    assert _column(page, flops) == sorted(_column(page, flops))
    headers[0].query_selector("button").press("Enter")
    headers[0].query_selector("button").press("Enter")
    rows = page.run(
        """[...document.querySelector('[aria-labelledby=r0-operators] table').tBodies[0].rows]
           .map(row => row.cells[0].textContent)"""
    )
    assert rows == sorted(rows)
    assert headers[flops].get_attribute("aria-sort") is None


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_never_scrolls_sideways(opened: Callable[..., Opened], content: Content, width: int) -> None:
    page = opened(content, viewport={"width": width, "height": 800})
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.page.wait_for_timeout(300)
    assert page.run("document.documentElement.scrollWidth") <= width
    widest = page.run(
        "Math.max(...[...document.querySelectorAll('.plot svg')].map(s => s.getBoundingClientRect().right))"
    )
    assert widest <= width


def test_figures_follow_the_window(opened: Callable[..., Opened], content: Content) -> None:
    page = opened(content, viewport={"width": 1280, "height": 800})
    page.page.set_viewport_size({"width": 400, "height": 800})
    page.page.wait_for_timeout(500)
    assert page.run("document.documentElement.scrollWidth") <= 400
    assert page.run("document.querySelector('.plot svg').getBoundingClientRect().width") <= 400


def test_dark_scheme_turns_page_and_figures(opened: Callable[..., Opened], content: Content) -> None:
    page = opened(content, color_scheme="dark")
    assert _brightness(page.run("getComputedStyle(document.body).backgroundColor")) < 60
    assert _brightness(page.run("getComputedStyle(document.querySelector('.xtitle')).fill")) > 180
    page.page.emulate_media(color_scheme="light")
    page.page.wait_for_timeout(300)
    assert _brightness(page.run("getComputedStyle(document.body).backgroundColor")) > 240
    assert _brightness(page.run("getComputedStyle(document.querySelector('.xtitle')).fill")) < 60


def test_labels_are_outlined_in_the_colour_of_the_page(
    opened: Callable[..., Opened], content: Content
) -> None:
    """So that a roof that passes behind one does not strike it out."""
    page = opened(content)
    style = "getComputedStyle(document.querySelector('.textpoint text'))"
    assert page.run(f"{style}.paintOrder") == "stroke"
    assert page.run(f"{style}.stroke") == page.run("getComputedStyle(document.body).backgroundColor")


def _brightness(colour: str) -> float:
    red, green, blue = (float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3])
    return (red + green + blue) / 3


def test_print_is_light_open_and_fits_the_paper(opened: Callable[..., Opened], content: Content) -> None:
    page = opened(content, color_scheme="dark")
    page.page.emulate_media(media="print", color_scheme="dark")
    page.page.wait_for_timeout(500)
    assert _brightness(page.run("getComputedStyle(document.body).backgroundColor")) > 240
    assert _brightness(page.run("getComputedStyle(document.querySelector('.xtitle')).fill")) < 60
    assert page.run("[...document.querySelectorAll('details')].every(d => d.open)")
    assert page.marks("r0-roofline-2") > 0
    assert page.run("Math.max(...[...document.querySelectorAll('.plot svg')].map(s => s.clientWidth))") <= 680
    assert page.page.pdf(format="A4").startswith(b"%PDF")
    page.page.emulate_media(media="screen", color_scheme="dark")
    page.page.wait_for_timeout(300)
    assert not page.run("document.querySelector('details').open")
    assert page.complaints == []


def test_hostile_names_run_nothing_and_are_shown(
    opened: Callable[..., Opened], make_run: Callable[..., Run], make_device: Callable[..., Device]
) -> None:
    rename = {"lm_head": EVIL, "layers.mlp.up_proj": BREAKOUT, "embedding": LINK}
    head = {"model": EVIL, "weights": BREAKOUT, "command": LINK, "notes": [EVIL], "environment": {EVIL: LINK}}
    run = make_run(rename=rename, **head)
    content = of_run(run, make_device(name=BREAKOUT), [make_device(name=EVIL)])
    page = opened(content)
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.page.wait_for_timeout(300)
    assert page.complaints == []
    assert page.page.query_selector_all("img") == []
    assert page.page.query_selector_all("svg a") == []
    assert EVIL in page.page.text_content("h1")
    ticks = page.run(
        "[...document.querySelectorAll('[data-figure=r0-time-0] .ytick text')].map(e => e.textContent)"
    )
    assert EVIL in ticks
    assert page.page.title().startswith(EVIL)


def test_hostile_hover_text_is_text(opened: Callable[..., Opened], content: Content) -> None:
    point = content.points[0]
    first = next(o for o in point.operators if o.drawable)
    names = (EVIL, LINK, "<b>x</b>", "%{x}")
    apart = tuple(replace(first, name=n, flops=first.flops * 10**i) for i, n in enumerate(names))
    page = opened(replace(content, points=(replace(point, operators=apart),)))
    for number, name in enumerate(names):
        assert name in _hover(page, "r0-roofline-0", number)
    assert page.complaints == []


def test_a_script_that_got_in_would_not_run(opened: Callable[..., Opened], content: Content) -> None:
    """The page's policy is a second wall: it stops what escaping would have missed."""
    page = opened(content)
    page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
    page.run(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 2'}))"
    )
    page.page.wait_for_timeout(200)
    assert page.run("window.ran") is None


def test_a_prediction_draws_hollow_marks_only(opened: Callable[..., Opened], toy: Device) -> None:
    content = of_predictions([predict(Scenario(load_model("llama-3.2-1b").model), toy)], [toy])
    page = opened(content)
    for index, point in enumerate(content.points):
        assert page.marks(f"r0-roofline-{index}") == sum(o.drawable for o in point.operators)
    assert page.complaints == []


def test_without_javascript_the_tables_are_there(browser: Any, tmp_path: Path, content: Content) -> None:
    file = tmp_path / "report.html"
    file.write_text(render(content), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    text = page.inner_text("main")
    assert "layers.mlp.down_proj" in text
    assert "needs JavaScript" in text
    context.close()


def test_no_page_of_the_documentation_scrolls_sideways_on_a_telephone(browser: Any, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--no-directory-urls", "-d", str(site)]
    subprocess.run(command, cwd=Path(__file__).resolve().parents[2], check=True)
    page = browser.new_page(viewport={"width": 390, "height": 800})
    wide = {}
    for file in sorted(site.glob("*.html")):
        page.goto(file.as_uri())
        wide[file.stem] = page.evaluate("document.documentElement.scrollWidth")
    assert len(wide) > 10
    assert set(wide.values()) == {390}, wide
