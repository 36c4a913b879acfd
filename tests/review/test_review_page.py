"""The review page in a real browser: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from fgvr import schemas
from fgvr.config.data import ImageLimits
from fgvr.review.catalogue import Catalogue
from fgvr.review.desk import Desk
from fgvr.review.log import DecisionLog, effective_decisions
from fgvr.review.server import COOKIE, Doors, application
from fgvr.review.thumbnails import Thumbnails
from fgvr.tables import Table, write_part

CHROMIUM = shutil.which("chromium")
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=1</script>'
NAMES = ["Blue Finch", "Red Finch", "Red finch (male)", HOSTILE]
PER_NAME = 20
DIM = 8

pytestmark = pytest.mark.slow


def table(folder: Path, name: str, rows: pa.Table) -> Table:
    uri = str(folder / "tables" / name / "f")
    write_part(uri, 0, rows)
    made = Table(uri, name, str(folder).replace("/", "_"), rows.num_rows, 0, 1, max(1, rows.num_rows), 0.0)
    made.commit()
    return made


def tables(folder: Path) -> dict[str, Table]:
    """80 photos with four names, one of which is hostile, as are the photos' own file names."""
    (folder / "photos").mkdir(parents=True)
    uris = []
    for number in range(len(NAMES) * PER_NAME):
        file = folder / "photos" / f"{number:03d}<b onclick=1>&'.jpg"
        Image.new("RGB", (60, 40), (number * 3, 90, 200 - number * 2)).save(file)
        uris.append(str(file))
    Path(uris[3]).unlink()
    count = len(uris)
    samples = {"image_id": range(count), "uri": uris, "split": ["train"] * count}
    labels = [NAMES[number // PER_NAME] for number in range(count)]
    scores = np.linspace(0.3, 0.9, count).astype(np.float32)
    predicted = {
        "image_id": range(count),
        "label": labels,
        "label_id": [number // PER_NAME for number in range(count)],
        "score": scores,
        "top_labels": [[label] for label in labels],
        "top_scores": [[float(score)] for score in scores],
        "abstained": [False] * count,
    }
    embedded = [{"image_id": number, "vector": vector_of(number).tobytes()} for number in range(count)]
    return {
        "embeddings": table(folder, "embeddings", pa.Table.from_pylist(embedded, schema=schemas.embeddings(DIM))),
        "eval_near": table(folder, "eval_near", pa.Table.from_pylist(_other_names(), schema=NAMES_OF)),
        "samples": table(folder, "samples", pa.Table.from_pylist(_rows(samples), schema=schemas.SAMPLES)),
        "predictions": table(folder, "predictions", pa.Table.from_pylist(_rows(predicted), schema=schemas.PREDICTIONS)),
    }


NAMES_OF = pa.schema([("image_id", pa.int64()), ("label", pa.string()), ("error", schemas.ERROR.type)])


def _other_names() -> list[dict[str, object]]:
    """Another method's names: it differs on every second photo of the first two names, whose names it exchanges."""
    names = [NAMES[number // PER_NAME] for number in range(2 * PER_NAME)]
    return [
        {"image_id": number, "label": NAMES[1 - NAMES.index(name)] if number % 2 else name}
        for number, name in enumerate(names)
    ]


def vector_of(number: int) -> np.ndarray:
    """A photo's vector: near that of its name; the last six of the first name lie apart from its others."""
    group = len(NAMES) if 14 <= number < PER_NAME else number // PER_NAME
    vector = np.eye(DIM)[group] + 0.1 * np.random.default_rng(number).standard_normal(DIM)
    return (vector / np.linalg.norm(vector)).astype("<f2")


def encode(text: str) -> np.ndarray:
    """The text tower: it knows the names."""
    return np.eye(DIM, dtype=np.float32)[NAMES.index(text)]


def _rows(columns: dict[str, object]) -> list[dict[str, object]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]  # type: ignore[call-overload]


@dataclass
class Served:
    folder: Path
    doors: Doors
    links: list[str] = field(default_factory=list)

    @property
    def home(self) -> str:
        return f"http://127.0.0.1:{self.doors.port}"

    def enter(self) -> httpx.Client:
        """A client with a cookie, which writes as the page does."""
        headers = {"Origin": self.home, "X-FGVR-Review": "1"}
        client = httpx.Client(base_url=self.home, headers=headers, timeout=60)  # the first map takes seconds
        assert client.get(self.doors.link).status_code == 303
        return client


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    import socket

    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    catalogue = Catalogue(tables(folder))
    door = socket.create_server(("127.0.0.1", 0))
    links: list[str] = []
    doors = Doors(door.getsockname()[1], links.append)
    app = application(Desk(str(folder), catalogue, "ann", encode), Thumbnails(ImageLimits()), doors, "run")
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Served(folder, doors, links)
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "chromium is missing: apt-get install chromium (make test does it where it may)"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def opened(browser: Browser, served: Served) -> Page:
    page = browser.new_page()
    page.set_default_timeout(15_000)
    page.goto(served.doors.link)
    expect(page.locator("#name-rows tr").first).to_be_visible()
    return page


def key(page: Page, letter: str, said: str) -> None:
    page.keyboard.press(letter)
    expect(page.locator("#live")).to_contain_text(said)


def test_photos_are_decided_by_keys_alone(browser: Browser, served: Served) -> None:
    page = opened(browser, served)
    assert "token" not in page.url
    page.keyboard.press("/")
    page.keyboard.type("blue")
    expect(page.locator("#name-rows tr")).to_have_count(1)
    page.keyboard.press("Tab")  # sort
    page.keyboard.press("Tab")  # names that may mean one thing
    page.keyboard.press("Tab")  # the name
    page.keyboard.press("Enter")
    expect(page.locator("#photos-title")).to_have_text("Blue Finch")
    key(page, "r", "Saved: right: Blue Finch")
    expect(page.locator("#strip button[aria-current=true]")).to_have_attribute("aria-label", "Photo 2")
    key(page, "w", "Saved: wrong: Blue Finch")
    expect(page.locator("#strip button[aria-current=true]")).to_have_attribute("aria-label", "Photo 3")
    page.keyboard.press("o")
    page.keyboard.type("Red Fi")
    expect(page.locator("#like option")).to_have_count(2)
    page.keyboard.type("nch")
    page.keyboard.press("Enter")
    expect(page.locator("#live")).to_contain_text("name: Red Finch")
    expect(page.locator("#strip button[aria-current=true]")).to_have_attribute("aria-label", "Photo 4")
    expect(page.locator("#photo")).to_have_attribute("alt", "This photo cannot be read.")
    key(page, "c", "Saved: cannot tell")
    key(page, "u", "Saved: undone: cannot tell")
    found = effective_decisions(served.folder)
    said = {each.image_id: (each.kind.value, each.name, each.who) for each in found.photos.values()}
    assert said == {0: ("right", "Blue Finch", "ann"), 1: ("wrong", None, "ann"), 2: ("name", "Red Finch", "ann")}
    page.close()


def test_names_are_renamed_merged_and_back(browser: Browser, served: Served) -> None:
    page = opened(browser, served)

    def change(button: str, name: str | None, said: str) -> None:
        page.get_by_role("button", name=button, exact=True).click()
        if name is not None:
            page.locator("#ask-name").fill(name)
            page.get_by_role("button", name="Save").click()
        expect(page.locator("#live")).to_contain_text(said)

    change("Rename… Blue Finch", "Azure Finch", "Azure Finch")
    expect(page.locator("#name-rows")).to_contain_text("in the run: Blue Finch")
    change("Rename… Red finch (male)", "Red Finch", "was a name already")
    expect(page.locator("#name-rows tr", has_text="in the run: Red finch (male)")).to_contain_text("40")
    change("Merge into… Red Finch", "Green Finch", "no photo is called 'Green Finch'")
    change("Merge into… Red Finch", "Azure Finch", "merge: Azure Finch")
    expect(page.locator("#name-rows tr")).to_have_count(2)
    page.locator("body").click(position={"x": 5, "y": 5})
    key(page, "u", "undone: merge Azure Finch")
    expect(page.locator("#name-rows tr")).to_have_count(3)
    assert effective_decisions(served.folder).aliases == {"Blue Finch": "Azure Finch", "Red finch (male)": "Red Finch"}
    page.close()


def test_hostile_names_and_files_are_text(browser: Browser, served: Served) -> None:
    page = opened(browser, served)
    page.get_by_role("button", name=HOSTILE, exact=True).click()
    expect(page.locator("#photos-title")).to_have_text(HOSTILE)
    expect(page.locator("#place")).to_contain_text("<b onclick=1>&'.jpg")
    key(page, "r", "Saved: right: <img")
    assert page.title() == "fgvr review"
    assert page.locator("[onerror], [onclick], main script").count() == 0
    page.close()


def test_a_second_window_sees_what_the_first_decides(browser: Browser, served: Served) -> None:
    first, second = opened(browser, served), opened(browser, served)  # each came by a link of its own
    second.get_by_role("button", name="Likely wrong").click()
    first.get_by_role("button", name="Likely wrong").click()
    expect(first.locator("#strip button")).to_have_count(60)
    key(first, "r", "Saved: right")
    expect(second.locator("#decision")).to_contain_text("decided: right, by ann")
    first.close()
    second.close()


def test_an_audit_is_drawn_before_it_is_looked_at(browser: Browser, served: Served) -> None:
    page = opened(browser, served)
    page.get_by_role("button", name="Audit").click()
    page.get_by_role("button", name="± 10 points").click()
    expect(page.locator("#audit-said")).to_contain_text("Nothing is decided yet")
    stored = json.loads((served.folder / "review" / "audit.json").read_text())
    assert page.locator("#said dt").count() == 0  # nobody is led by what models said
    key(page, "r", "Saved: right")
    expect(page.locator("#audit-said")).to_contain_text("100.0% right")
    key(page, "w", "Saved: wrong")
    expect(page.locator("#audit-said")).to_contain_text("from 2 photos")
    assert stored == json.loads((served.folder / "review" / "audit.json").read_text())
    assert effective_decisions(served.folder).for_training == {}
    page.close()


def test_photos_are_found_by_a_text_and_by_likeness(browser: Browser, served: Served) -> None:
    page = opened(browser, served)
    page.keyboard.press("f")
    page.keyboard.type("Red Finch")
    page.keyboard.press("Enter")
    expect(page.locator("#photos-title")).to_have_text("Photos of: Red Finch")
    expect(page.locator("#photos-where")).to_have_text("1–60 of 80")
    key(page, "r", "Saved: right: Red Finch")
    page.keyboard.press("l")
    expect(page.locator("#photos-title")).to_contain_text("Photos like number")
    expect(page.locator("#photos-where")).to_have_text("1–60 of 79")
    page.close()


def test_searches_return_the_nearest_photos_first(served: Served) -> None:
    client = served.enter()
    ids = [photo["image_id"] for photo in client.get("/api/photos?text=Red Finch&start=0").json()["photos"]]
    assert set(ids[:PER_NAME]) == set(range(PER_NAME, 2 * PER_NAME))
    like = [photo["image_id"] for photo in client.get("/api/photos?photo=45").json()["photos"]]
    assert set(like[: PER_NAME - 1]) == set(range(40, 60)) - {45}
    assert client.get("/api/photos?photo=4500").json()["error"].startswith("this photo has no vector")


def test_a_map_shows_names_and_decisions_and_leads_to_photos(browser: Browser, served: Served) -> None:
    page = opened(browser, served)
    page.get_by_role("button", name="Map", exact=True).click()
    expect(page.locator("#points circle")).to_have_count(80, timeout=60_000)
    expect(page.locator("#legend li")).to_have_count(len(NAMES))
    expect(page.locator("#legend")).to_contain_text(HOSTILE)
    client = served.enter()
    facts = client.get("/api/map").json()
    points, names = np.array(facts["points"]), np.array(facts["names"])
    parts = [points[names == name] for name in NAMES[1:]]
    centres = np.array([part.mean(axis=0) for part in parts])
    widest = max(np.linalg.norm(part - centre, axis=1).max() for part, centre in zip(parts, centres, strict=True))
    assert min(np.linalg.norm(centres[0] - centres[1:], axis=1)) > 1.5 * widest  # names lie apart
    decided = {"kind": "right", "image_id": 3, "before": "Blue Finch"}
    assert client.post("/api/decide", json=decided).status_code == 200
    page.locator("#colour").select_option("decisions")
    expect(page.locator("#legend")).to_contain_text("right (1)")
    page.locator("#points circle").first.dispatch_event("click")
    expect(page.locator("#photos-title")).to_contain_text("Photos like number")
    page.close()


def test_photos_of_an_audit_are_shown_neither_on_the_map_nor_by_searches(served: Served) -> None:
    client = served.enter()
    assert client.post("/api/audit", json={"half_width": 0.1}).status_code == 200
    stored = json.loads((served.folder / "review" / "audit.json").read_text())
    drawn = {photo["image_id"] for photo in stored["photos"]}
    assert len(drawn) > 20
    assert not drawn & set(client.get("/api/map").json()["ids"])
    found = client.get("/api/photos?text=Red Finch").json()
    assert not drawn & {photo["image_id"] for photo in found["photos"]}
    assert found["total"] == 80 - len(drawn)


def test_the_smaller_of_two_groups_is_marked_and_split_off(browser: Browser, served: Served) -> None:
    page = opened(browser, served)
    page.get_by_role("button", name="Blue Finch", exact=True).click()
    page.get_by_role("button", name="Mark the smaller of two look-alike groups").click()
    expect(page.locator("#marked")).to_have_text("6 marked")
    page.get_by_role("button", name="Split marked photos off").click()
    page.locator("#ask-name").fill("Teal")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#live")).to_contain_text("Saved: split: Teal")
    found = effective_decisions(served.folder).photos
    assert {uri.rsplit("/", 1)[1][:3] for uri in found} == {f"{number:03d}" for number in range(14, 20)}
    assert {each.name for each in found.values()} == {"Teal"}
    page.close()


def test_names_that_are_written_alike_are_offered_for_a_merge(browser: Browser, served: Served) -> None:
    client = served.enter()
    renamed = {"kind": "rename", "before": "Red finch (male)", "after": "Blue finch"}
    assert client.post("/api/decide", json=renamed).status_code == 200
    page = opened(browser, served)
    page.locator("#doubles summary").click()
    expect(page.locator("#double-rows li")).to_have_count(1)
    page.get_by_role("button", name="Merge into Blue").click()
    expect(page.locator("#live")).to_contain_text("Saved: merge")
    expect(page.locator("#double-rows")).to_contain_text("None: no two names are written alike.")
    assert len({effective_decisions(served.folder).called(name) for name in ("Blue Finch", "Red finch (male)")}) == 1
    page.close()


def test_two_methods_are_compared_where_they_differ(browser: Browser, served: Served) -> None:
    page = opened(browser, served)
    page.get_by_role("button", name="Audit").click()
    page.locator("#comparing summary").click()
    page.locator("#first").select_option("predictions")
    page.locator("#second").select_option("eval_near")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#compared")).to_contain_text("eval_near differ on 20 photos, 20 drawn: nothing is decided yet")
    page.get_by_role("button", name="Decide predictions against eval_near").click()
    expect(page.locator("#choices button")).to_have_count(2)
    expect(page.locator("#name")).to_have_text("Which of these?")  # and not whose they are
    assert page.locator("#said dt").count() == 0
    stored = json.loads((served.folder / "review" / "audit-predictions-eval_near.json").read_text())
    for photo in stored["photos"][:6]:
        letter = str(1 + sorted([photo["name"], photo["other"]]).index(photo["name"]))
        expect(page.locator("#place")).to_have_text(photo["uri"])
        key(page, letter, f"Saved: name: {photo['name']}")
    expect(page.locator("#compared")).to_contain_text(
        "right on 6, eval_near on 0, neither on 0; predictions is better (p = 0.031)"
    )
    found = effective_decisions(served.folder)
    assert len(found.photos) == 6
    assert found.for_training == {}
    page.close()


def test_methods_that_never_differ_are_said_so(served: Served) -> None:
    client = served.enter()
    pair = {"first": "predictions", "second": "predictions"}
    reply = client.post("/api/comparisons", json=pair)
    assert (reply.status_code, reply.json()["error"]) == (409, "predictions and predictions name no photo differently")
    unknown = client.post("/api/comparisons", json={"first": "predictions", "second": "../x"})
    assert unknown.status_code == 409
    assert "no names in ../x" in unknown.json()["error"]
    assert client.get("/api/comparisons").json() == {"methods": ["predictions", "eval_near"], "begun": []}


def test_a_browser_without_scripts_is_told(browser: Browser, served: Served) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(served.doors.link)
    expect(page.locator("noscript p")).to_be_visible()
    assert "needs JavaScript" in page.locator("noscript").inner_html()
    context.close()


def test_nobody_comes_in_without_a_fresh_link(served: Served) -> None:
    paths = ("/", "/page.js", "/api/run", "/api/names", "/thumb/0", "/?token=", "/?token=wrong", "/nothing")
    assert {httpx.get(served.home + path).status_code for path in paths} == {403}
    leaked = served.doors.link
    served.enter()
    assert httpx.get(leaked).status_code == 403  # it was used already
    assert served.links == [served.doors.link]  # and a new one was printed
    wrong = httpx.get(served.home, cookies={COOKIE: "wrong"})
    assert (wrong.status_code, "printed" in wrong.text) == (403, True)


def test_other_sites_can_neither_write_nor_read(served: Served) -> None:
    client = served.enter()
    right = {"kind": "right", "image_id": 0, "before": "Blue Finch"}
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"X-FGVR-Review": ""}):
        assert client.post("/api/decide", json=right, headers=headers).status_code == 403
    assert client.get("/api/run", headers={"Host": f"evil.example:{served.doors.port}"}).status_code == 403
    assert client.post("/api/decide", content=json.dumps(right)).status_code == 409  # not sent as JSON
    assert DecisionLog(served.folder).read()[0] == []
    reply = client.post("/api/decide", json=right)
    assert reply.status_code == 200
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    entered = httpx.get(served.doors.link).headers["set-cookie"].lower()
    assert "httponly" in entered
    assert "samesite=strict" in entered


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"kind": "right", "image_id": 80, "before": "A"}, 404, "no photo 80"),
        ({"kind": "right", "image_id": -1, "before": "A"}, 404, "no photo"),
        ({"kind": "right", "image_id": 10**30, "before": "A"}, 404, "no photo"),
        ({"kind": "right", "image_id": "x", "before": "A"}, 409, "x"),
        ({"kind": "right", "before": "A"}, 409, "image_id"),
        ({"kind": "name", "image_id": 1, "after": " "}, 409, "needs after"),
        ({"kind": "undo"}, 409, "not known"),
        ({"kind": "merge", "before": "Gone", "after": "Red Finch"}, 409, "no photo is called 'Gone'"),
        ({"kind": "rename", "before": "Red Finch", "after": "Red Finch"}, 409, "called so already"),
        ({"kind": "rename", "before": "Red Finch", "after": "x" * 501}, 409, "500"),
        ({"kind": "split", "before": "Red Finch", "after": "New", "image_ids": [1, 99]}, 404, "no photo 99"),
    ],
)
def test_a_decision_that_cannot_hold_is_not_written(
    served: Served, asked: dict[str, object], status: int, said: str
) -> None:
    reply = served.enter().post("/api/decide", json=asked)
    assert reply.status_code == status
    assert said in reply.json()["error"]
    assert DecisionLog(served.folder).read()[0] == []


def test_pages_of_what_is_not_there(served: Served) -> None:
    client = served.enter()
    assert client.get("/api/photos?name=Nothing").json()["photos"] == []
    assert client.get("/api/photos?queue=likely_wrong&start=100000").json()["photos"] == []
    assert client.get("/api/photos?queue=secrets").status_code == 409
    assert client.get("/api/names?sort=mood").status_code == 409
    assert client.get("/thumb/99").status_code == 404
    assert client.get("/thumb/3").status_code == 422  # its file is gone
    assert client.get("/thumb/1?side=99999").status_code == 409
    assert client.get("/..%2f..%2fpyproject.toml").status_code == 404
