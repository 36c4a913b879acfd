"""The report in a real browser, at three widths, light and dark: what axe-core would call serious, checked here."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from fgvr.report.page import render
from tests.fgvr.report.sample_report import content

CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.slow

# Text on an opaque background: (text, ratio) of everything below WCAG's 4.5:1.
PALE = """() => {
  const channel = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parts = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => .2126 * channel(r / 255) + .7152 * channel(g / 255) + .0722 * channel(b / 255);
  const ground = e => { for (; e; e = e.parentElement) {
    const c = parts(getComputedStyle(e).backgroundColor); if (c.length == 3 || c[3] == 1) return c; }
    return [255, 255, 255]; };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || !e.checkVisibility()) continue;
    const svg = e.closest("svg"), style = getComputedStyle(e);
    const [low, high] = [light(parts(svg ? style.fill : style.color)), light(ground(e))].sort((a, b) => a - b);
    const ratio = (high + .05) / (low + .05);
    if (ratio < 4.5) found.push([text, ratio]);
  }
  return found;
}"""
# Elements without what a screen reader needs.
UNNAMED = """() => [
  ...document.querySelectorAll("img:not([alt]), img[alt=''], svg:not([aria-label]):not([aria-hidden=true])"),
  ...document.querySelectorAll("th:not([scope]), [role=region]:not([aria-label]), [role=img]:not([aria-label])"),
  ...[...document.querySelectorAll("a, summary, button")].filter(e =>
    !e.textContent.trim() && !e.querySelector("img[alt]:not([alt=''])")),
  ...[...document.querySelectorAll("th")].filter(e => !e.textContent.trim()),
].map(e => e.outerHTML.slice(0, 120))"""
OPEN_ALL = "document.querySelectorAll('details:not(.photo)').forEach(each => { each.open = true })"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample report with a real photo in place of its dot."""
    sink = io.BytesIO()
    Image.new("RGB", (352, 264), (40, 90, 160)).save(sink, "JPEG")
    picture = f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"
    given = content()
    images = [replace(card, thumbnail=picture) if card.thumbnail else card for card in given.images]
    place = tmp_path_factory.mktemp("report") / "report.html"
    place.write_text(render(replace(given, images=images)))
    return place


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    assert CHROMIUM, "chromium is missing: apt-get install chromium (make test does it where it may)"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def opened(chromium: Browser, report: Path, width: int, scheme: str = "light") -> Page:
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(report.as_uri())
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_nothing_is_cut_pale_or_unnamed(chromium: Browser, report: Path, width: int, scheme: str) -> None:
    page = opened(chromium, report, width, scheme)
    page.evaluate(OPEN_ALL)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(PALE) == []
    assert page.evaluate(UNNAMED) == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids))
    page.close()


def test_the_checks_find_what_they_look_for(chromium: Browser, report: Path) -> None:
    page = opened(chromium, report, 800)
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<p style=\"color:#999\">pale</p><img src=x><th></th>')"
    )
    assert [text for text, _ in page.evaluate(PALE)] == ["pale"]
    assert page.evaluate(UNNAMED) == ['<img src="x">']
    page.close()


def test_a_narrow_screen_scrolls_the_table_and_keeps_its_names_readable(chromium: Browser, report: Path) -> None:
    page = opened(chromium, report, 360)
    table = page.locator("#results .scroll").first
    assert table.evaluate("each => each.scrollWidth > each.clientWidth")
    assert table.locator("tbody th").first.evaluate("each => each.clientWidth") >= 120
    table.focus()
    page.keyboard.press("ArrowRight")
    for _ in range(50):  # wait_for_function needs eval, which the page's policy forbids
        if table.evaluate("each => each.scrollLeft"):
            break
        page.wait_for_timeout(100)
    assert table.evaluate("each => each.scrollLeft") > 0
    page.close()


def test_contents_folding_and_photos_work_by_keyboard_without_scripts(chromium: Browser, report: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    page.get_by_role("navigation").get_by_role("link", name="Failures").click()
    assert page.url.endswith("#failures")
    heading = page.locator("#results summary").first
    heading.focus()
    page.keyboard.press("Enter")
    assert not page.locator("#results table").first.is_visible()
    photo = page.locator("#images details.photo").first
    before = photo.locator("img").bounding_box()
    photo.locator("summary").focus()
    page.keyboard.press("Enter")
    after = photo.locator("img").bounding_box()
    assert before is not None
    assert after is not None
    assert (before["width"], before["height"]) == (88, 88)
    assert after["width"] > 200
    assert after["width"] / after["height"] == pytest.approx(4 / 3, rel=0.02)  # the whole photo, not its square
    context.close()


def test_the_interval_is_seen_beside_the_bar(chromium: Browser, report: Path) -> None:
    page = opened(chromium, report, 1400)
    bar = page.locator("#results .score .bar").first.bounding_box()
    interval = page.locator("#results .score .interval b").first.bounding_box()
    assert bar is not None
    assert interval is not None
    assert interval["y"] >= bar["y"] + bar["height"]  # below it, not over it
    assert interval["width"] >= 3
    # sACC of the MLLM, 56 to 60 of 100: the ends are where they belong on the bar's scale.
    assert (interval["x"] - bar["x"]) / bar["width"] == pytest.approx(0.56, abs=0.01)
    assert interval["width"] / bar["width"] == pytest.approx(0.04, abs=0.01)
    page.close()
