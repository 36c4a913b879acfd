"""What people decided on the review page, and what the next start of the run makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.stage import RunContext
from fgvr.config import build
from fgvr.names.label_space import read_label_space
from fgvr.review.audit_file import AuditSample, Drawn
from fgvr.review.decisions import Decision, Kind
from fgvr.review.log import DecisionLog
from fgvr.tables import Table
from pipelines.checked import CHECKED, checked_names
from pipelines.compared import evaluated
from pipelines.duplicates import photos_of
from pipelines.reviewed import AUDITED, audited, left_out, reviewed, true_names
from pipelines.run_tables import Run
from tests.untracked import NoTracking
from tests.without_ray import parts_without_ray

PHOTOS, ASKED, ROWS = 14, 8, 3
TEST = (12, 13)
NAMES = ("Gull", "Tern", "Herring Gull")


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    parts_without_ray(monkeypatch)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Fourteen photos, two of them to evaluate on, eight of the others named by a file of answers."""
    lines = [f"{n:02d}.jpg,{'test' if n in TEST else 'train'}" for n in range(PHOTOS)]
    (tmp_path / "photos.csv").write_text("\n".join(["uri,split", *lines]) + "\n")
    said = [f"{n:02d}.jpg,{NAMES[n % 3]}" for n in range(PHOTOS)]
    (tmp_path / "answers.csv").write_text("\n".join(["uri,answer", *said]) + "\n")
    return tmp_path


def run_of(place: Path, source: dict[str, Any] | None = None, **label: Any) -> Run:
    """A session of the run; `source`: more about its photos."""
    listed = {"kind": "table", "path": str(place / "photos.csv"), "split_column": "split", **(source or {})}
    tree = {
        "ingest": {"source": listed},
        "label": {
            "sources": [{"kind": "file", "name": "one", "path": str(place / "answers.csv")}],
            "images": {"max_images": ASKED, "per_class": None},
            "workers": {"rows_per_part": ROWS},
            **label,
        },
    }
    return Run(RunContext(build(tree), str(place / "run"), NoTracking()))


def photo(place: Path, number: int) -> str:
    return f"{place}/{number:02d}.jpg"


def decide(place: Path, *decisions: Decision) -> None:
    DecisionLog(place / "run").append(decisions)


def about(place: Path, kind: Kind, number: int, before: str = "", after: str = "") -> Decision:
    return Decision(kind, "ann", image_id=number, uri=photo(place, number), before=before, after=after)


def names_in(labels: Table) -> dict[int, str | None]:
    rows = labels.read(["image_id", "label"])
    return dict(zip(rows["image_id"].to_pylist(), rows["label"].to_pylist(), strict=True))


def others(place: Path) -> list[int]:
    """Photos to learn from about which nobody was asked."""
    asked = names_in(run_of(place).table("labels"))
    return [number for number in range(PHOTOS) if number not in asked and number not in TEST]


def test_without_decisions_and_without_taking_them_the_labels_are_found_finished(place: Path) -> None:
    first = run_of(place).table("labels")
    assert run_of(place, reviewed=False).table("labels").uri == first.uri
    decide(place, Decision(Kind.RENAME, "ann", before="Tern", after="Arctic Tern"))
    assert run_of(place, reviewed=False).table("labels").uri == first.uri
    second = run_of(place)
    answers = second.table("answers")
    assert second.table("labels").uri != first.uri
    assert answers.fingerprint == run_of(place, reviewed=False).table("answers").fingerprint


def test_names_are_renamed_united_and_struck_out_in_labels_and_aliases(place: Path) -> None:
    before = names_in(run_of(place).table("labels"))
    decide(
        place,
        Decision(Kind.RENAME, "ann", before="Gull", after="Larus"),
        Decision(Kind.MERGE, "bob", before="Herring Gull", after="Larus"),
        Decision(Kind.NOT_A_NAME, "ann", before="Tern"),
    )
    labels = run_of(place).table("labels")
    now = {"Gull": "Larus", "Herring Gull": "Larus", "Tern": None}
    assert names_in(labels) == {image: now[name or ""] for image, name in before.items()}
    assert read_label_space(labels).labels == ("Larus",)
    assert labels.failures == {"struck_out": sum(name == "Tern" for name in before.values())}
    lines = Path(labels.path("aliases.csv")).read_text().splitlines()
    assert {line.rsplit(",", 1)[0] for line in lines[1:]} == {
        f"{name},{now[name or ''] or ''}" for name in set(before.values())
    }


def test_decided_photos_are_certain_also_those_about_which_nobody_was_asked(place: Path) -> None:
    before = names_in(run_of(place).table("labels"))
    new, last = others(place)[0], others(place)[-1]
    inside = next(image for image, name in before.items() if name == "Tern")
    decide(
        place,
        about(place, Kind.NAME, new, "Gull", "Great Auk"),
        about(place, Kind.RIGHT, last, "Tern"),
        about(place, Kind.NAME, inside, "Tern", "great auk"),
        about(place, Kind.NAME, TEST[0], "Gull", "Great Auk"),
        about(place, Kind.CANNOT_TELL, others(place)[1]),
    )
    labels = run_of(place).table("labels")
    names = names_in(labels)
    assert list(names) == sorted(names)
    assert len(names) == labels.rows == ASKED + 2
    expected = {**before, new: names[new], last: "Tern", inside: names[new]}
    assert names == expected
    assert (names[new] or "").lower() == "great auk"  # one name, in one spelling
    assert labels.extra[CHECKED] == 3
    ids = labels.read(["image_id"])["image_id"].to_numpy()
    own = labels.read(["label_id"])["label_id"].to_numpy()
    looked = ids[checked_names(labels, ids, own) >= 0]
    assert set(looked.tolist()) == {new, last, inside}
    # Parts hold as many rows as those of the answers: rows are found by their place.
    assert [labels.find([image], ["image_id"]).num_rows for image in names] == [1] * len(names)
    assert labels.rows_per_part == ROWS
    assert any("1 decided photos belong to evaluate.split" in line for line in labels.extra["remarks"])


def test_a_name_that_a_photo_does_not_show_is_taken_from_it(place: Path) -> None:
    before = names_in(run_of(place).table("labels"))
    image = next(image for image, name in before.items() if name == "Tern")
    decide(place, about(place, Kind.WRONG, image, "Tern"))
    labels = run_of(place).table("labels")
    row = labels.find([image]).to_pylist()[0]
    assert (row["label"], row["label_id"], row["candidate_ids"]) == (None, None, [])
    assert row["error"] == {"reason": "struck_out", "detail": "a person said that it is not Tern"}
    assert names_in(labels) == {**before, image: None}


def test_copies_keep_their_photos_beside_added_rows(place: Path) -> None:
    decide(place, about(place, Kind.NAME, others(place)[0], "", "Great Auk"))
    labels = run_of(place).table("labels")
    assert photos_of(labels, labels.read(["image_id"])["image_id"].to_numpy()) is None


def test_undone_gone_and_later_decisions(place: Path) -> None:
    first = run_of(place).table("labels")
    image = next(iter(names_in(first)))
    wrong = about(place, Kind.NAME, image, "", "Great Auk")
    decide(place, wrong, Decision(Kind.UNDO, "ann", undoes=wrong.id))
    assert run_of(place).table("labels").uri == first.uri
    decide(place, Decision(Kind.NAME, "ann", image_id=99, uri="/gone.jpg", after="Great Auk"))
    decide(place, about(place, Kind.NAME, image, "", "Auk"), about(place, Kind.NAME, image, "", "Puffin"))
    labels = run_of(place).table("labels")
    assert names_in(labels)[image] == "Puffin"
    assert any("1 decided photos are not among this run's photos" in line for line in labels.extra["remarks"])


def test_a_damaged_log_teaches_what_can_be_read(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = next(iter(names_in(run_of(place).table("labels"))))
    decide(place, about(place, Kind.NAME, image, "", "Puffin"))
    with (place / "run" / "review" / "decisions.jsonl").open("a") as log:
        log.write('{"kind": "na\n')
    assert names_in(run_of(place).table("labels"))[image] == "Puffin"
    assert "1 lines of the decisions cannot be read" in caplog.text


def audit_of(place: Path, numbers: list[int]) -> None:
    drawn = tuple(Drawn(number, photo(place, number), 0, "Gull", 0.5) for number in numbers)
    AuditSample(seed=0, sizes=(PHOTOS,), photos=drawn).store(str(place / "run" / "review"))


def test_audited_photos_teach_nothing_and_are_the_truth_of_the_evaluation(place: Path) -> None:
    first = run_of(place)
    first.table("labels")
    assert evaluated(first)[0].ids.tolist() == list(TEST)
    asked = list(names_in(first.table("labels")))[:3]
    audit_of(place, asked)
    decide(
        place,
        about(place, Kind.RIGHT, asked[0], "Gull"),
        about(place, Kind.NAME, asked[1], "Gull", "Great Auk"),
        about(place, Kind.WRONG, asked[2], "Gull"),
        Decision(Kind.RENAME, "ann", before="Nothing", after="Something"),
    )
    run = run_of(place)
    assert reviewed(run).names == {}
    assert audited(run) == {asked[0]: "Gull", asked[1]: "Great Auk"}
    assert names_in(run.table("labels")) == names_in(first.table("labels"))
    images, overlap = evaluated(run)
    assert (images.ids.tolist(), images.split, overlap) == (asked[:2], AUDITED, 2)
    assert true_names(run, images.ids) == ["Gull", "Great Auk"]
    (remark,) = left_out(run, images.split)
    assert "1 audited photos were called wrong without a right name" in remark
    assert "0.67 times" in remark
    assert left_out(run, "test") == ()
    assert evaluated(run_of(place, reviewed=False))[0].ids.tolist() == list(TEST)


def test_true_classes_of_the_data_come_before_what_people_say(place: Path) -> None:
    rows = (place / "photos.csv").read_text().splitlines()
    named = [f"{rows[0]},class_name", *(f"{line},Auk" for line in rows[1:])]
    (place / "photos.csv").write_text("\n".join(named) + "\n")
    audit_of(place, [0])
    decide(place, about(place, Kind.RIGHT, 0, "Gull"))
    run = run_of(place, {"class_column": "class_name"})
    assert evaluated(run)[0].ids.tolist() == list(TEST)
    assert true_names(run, evaluated(run)[0].ids) == ["Auk", "Auk"]
