"""Every text that a report can show, made hostile in every way at once: the page shows it, and is no other page."""

import dataclasses
import html.parser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from sample_report import content

from fgvr.config.data import ImageLimits
from fgvr.report.cards import ExampleRows, build_cards
from fgvr.report.page import render

ATTACKS = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><svg onload=alert(1)>",
    "\"><img src=x onerror='alert(1)'>",
    "' onmouseover='alert(1)' x='",
    '" onmouseover="alert(1)" x="',
    "javascript:alert(1)",
    "<a href='javascript:alert(1)'>a</a>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "--><script>alert(1)</script><!--",
    "]]><script>alert(1)</script>",
    "{{ 7 * 191 }}{% for x in [1] %}{{ x }}{% endfor %}",
    "</title></textarea><base href='//evil.example/'><meta http-equiv=refresh content='0;url=//evil.example'>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\u2028<script>alert(1)</script>",
)
# What the program itself makes: pictures, drawings, and names of its own.
OURS = {"thumbnail", "mllm", "student", "colour", "class_targets", "method"}


class Page(html.parser.HTMLParser):
    """A page as a browser reads it: elements in order, their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.shape: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[tuple[str, str]] = []
        self.text = ""
        self.comments = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.shape.append((tag, tuple(name for name, _ in attrs)))
        self.values += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.comments += 1


def replaced(value: Any, text: str, name: str = "") -> Any:
    """The same content with `text` in place of every text; mappings keep their keys."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: replaced(getattr(value, field.name), text, field.name) for field in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **fields)
    if isinstance(value, dict):
        return {key: replaced(item, text, name) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(replaced(item, text, name) for item in value)
    return text if isinstance(value, str) and value and name not in OURS else value


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_page_has_the_same_elements_whatever_the_texts_are(attack: str) -> None:
    harmless = Page(render(replaced(content(), "a harmless text")))
    page = Page(render(replaced(content(), attack)))
    assert page.shape == harmless.shape
    assert page.comments == harmless.comments
    assert "script" not in {tag for tag, _ in page.shape}
    assert not {tag for tag, _ in page.shape} & {"iframe", "base", "object", "embed", "form", "link"}
    assert not any(name.startswith("on") for _, names in page.shape for name in names)
    links = [value for name, value in page.values if name in {"src", "href", "srcset", "action", "xlink:href"}]
    assert links
    ours = {"predictions.csv", "predictions.parquet", "names.csv"}
    assert all(value.startswith(("data:image/", "#")) or value in ours for value in links)
    assert [value for value in links if value.startswith("#")] == [
        value for name, value in harmless.values if name == "href" and value.startswith("#")
    ]
    assert page.text.count(attack) >= 40  # shown as it is, in labels, questions, file names, errors, settings
    assert "1337" not in page.text  # nobody worked it out


def test_from_the_tables_to_the_page(tmp_path: Path) -> None:
    """A label, an answer, a file name and an error, as the stages would hand them on."""
    attack = "<script>alert(1)<!-- "
    picture = tmp_path / '"><script>alert(2)<!-- .jpg'
    Image.new("RGB", (40, 40), "red").save(picture, "JPEG")
    uris = [
        str(picture),
        f"{tmp_path}/missing-<img src=x onerror=alert(3)>.jpg",
        "https://h/a.jpg?X-Amz-Signature=s3cr3t",
    ]
    ids = [0, 1, 2]
    rows = ExampleRows(
        samples=pa.table({"image_id": ids, "uri": uris, "class_name": [attack] * 3}),
        labels=pa.table({"image_id": ids, "raw": [attack] * 3, "label": [attack] * 3}),
        candidates=pa.table({"image_id": ids, "label_ids": [[0]] * 3, "weights": [[1.0]] * 3}),
        disambiguated=pa.table({"image_id": ids, "label_ids": [[0]] * 3, "weights": [[1.0]] * 3}),
        predictions={"near": pa.table({"image_id": ids, "label": [attack] * 3, "score": [0.5] * 3})},
    )
    cards = build_cards(rows, [attack], ImageLimits())
    page = Page(render(dataclasses.replace(content(), images=cards)))
    assert "script" not in {tag for tag, _ in page.shape}
    assert not any(name.startswith("on") for _, names in page.shape for name in names)
    assert page.text.count(attack) >= 12
    assert picture.name in page.text
    assert "onerror=alert(3)" in page.text
    assert "s3cr3t" not in page.text
