"""The pictures of README and docs, from a finished run of the demo, in a real browser.

    make demo && python -m benchmarks.pictures runs/demo          # writes docs/*.png; needs chromium

`demo-report.png` and `demo-report-dark.png`: the top of the report. `review-names.png` and `review-map.png`: the review
page. The run folder is copied first, so that nothing is written into it.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
COLOURS: Final = 96
"""Of a picture: flat pages need no more, and are a third of the size."""


def save(page: Page, name: str) -> None:
    """What the window shows, as docs/NAME.png."""
    from PIL import Image

    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(COLOURS)
    image.save(DOCS / f"{name}.png", optimize=True)
    sys.stdout.write(f"docs/{name}.png: {(DOCS / f'{name}.png').stat().st_size / 1024:.0f} KiB\n")


def report(browser: Browser, run: Path, was: Path) -> None:
    """The top of the report, light and dark, with the place of the run, `was`, as README has it."""
    shown = run / "report" / "report.html"
    shown.write_text(shown.read_text(encoding="utf-8").replace(str(was), "runs/demo"), encoding="utf-8")
    for scheme, name in (("light", "demo-report"), ("dark", "demo-report-dark")):
        page = browser.new_page(viewport={"width": 1000, "height": 1320}, color_scheme=scheme)  # type: ignore[arg-type]
        page.goto(shown.as_uri())
        save(page, name)
        page.close()


def review(browser: Browser, run: Path) -> None:
    """The review page: names, and the map."""
    with served(run) as link:
        page = browser.new_page(viewport={"width": 1200, "height": 760}, color_scheme="light")
        page.set_default_timeout(180_000)
        page.goto(link)
        page.wait_for_selector("#name-rows tr")
        page.wait_for_load_state("networkidle")
        save(page, "review-names")
        page.get_by_role("button", name="Map", exact=True).click()
        page.wait_for_selector("#points circle")
        page.mouse.move(1190, 750)
        save(page, "review-map")
        page.close()


@contextmanager
def served(run: Path) -> Iterator[str]:
    """The link of a review page of the run."""
    words = [sys.executable, str(ROOT / "pipelines" / "review.py"), str(run), "--who", "ann"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            for line in server.stdout or ():
                if found := re.search(r"http://\S+token=\S+", line):
                    yield found[0]
                    break
        finally:
            server.terminate()


def main() -> None:
    """Command line: see the module's docstring."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of the demo")
    run = parser.parse_args().run.resolve()
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        copy = Path(shutil.copytree(run, Path(place) / run.name))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        report(browser, copy, run)
        review(browser, copy)
        browser.close()


if __name__ == "__main__":
    main()
