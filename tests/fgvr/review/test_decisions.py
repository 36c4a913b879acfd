import json
import multiprocessing
from pathlib import Path

import pytest

from fgvr.review.audit_file import AuditSample, Drawn
from fgvr.review.decisions import BadDecision, Decision, Kind, fold
from fgvr.review.log import DecisionLog, effective_decisions


def said(kind: str, before: str = "", after: str = "", uri: str = "", **more: object) -> Decision:
    return Decision(Kind(kind), "ann", uri=uri, before=before, after=after, **more)  # type: ignore[arg-type]


def test_the_later_decision_about_a_photo_wins() -> None:
    found = fold([said("right", "A", uri="x"), said("name", "A", "B", uri="x"), said("wrong", "C", uri="y")])
    assert (found.photos["x"].name, found.photos["x"].kind) == ("B", Kind.NAME)
    assert (found.photos["y"].name, found.photos["y"].not_name) == (None, "C")


def test_an_undo_takes_back_and_can_be_taken_back() -> None:
    first, second = said("right", "A", uri="x"), said("name", "A", "B", uri="x")
    undo = said("undo", undoes=second.id)
    again = said("undo", undoes=undo.id)
    assert fold([first, second, undo]).photos["x"].name == "A"
    assert fold([first, second, undo, again]).photos["x"].name == "B"
    lost = fold([said("undo", undoes="nothing")])
    assert [each.why for each in lost.refused] == ["there is no such decision before it"]


def test_renames_and_merges_are_followed_to_their_end() -> None:
    found = fold(
        [said("right", "A", uri="x"), said("rename", "A", "B"), said("merge", "B", "C"), said("not_a_name", "D")]
    )
    assert found.aliases == {"A": "C", "B": "C", "D": ""}
    assert found.photos["x"].name == "C"
    assert (found.called("A"), found.called("D"), found.called("E")) == ("C", None, "E")


def test_a_circle_is_refused_and_what_was_there_stays() -> None:
    found = fold([said("merge", "A", "B"), said("merge", "B", "C"), said("merge", "C", "A"), said("merge", "E", "E")])
    assert found.aliases == {"A": "C", "B": "C"}
    assert [each.decision.before for each in found.refused] == ["C", "E"]
    assert "undo that decision" in found.refused[0].why


def test_a_name_that_was_renamed_can_be_renamed_otherwise() -> None:
    assert fold([said("rename", "A", "B"), said("rename", "A", "C")]).aliases == {"A": "C"}


def test_photos_of_a_split_are_moved_but_not_certain() -> None:
    found = fold([said("split", "A", "B", uris=("x", "y")), said("right", "B", uri="y")])
    assert (found.photos["x"].name, found.photos["x"].certain) == ("B", False)
    assert set(found.for_training) == {"y"}


def test_photos_of_an_audit_are_never_trained_on() -> None:
    found = fold([said("right", "A", uri="x"), said("right", "A", uri="y")], held_out=["x"])
    assert set(found.for_training) == {"y"}


@pytest.mark.parametrize("kind", ["right", "name", "rename", "merge", "split", "not_a_name", "undo"])
def test_a_decision_that_says_too_little_is_refused(kind: str) -> None:
    with pytest.raises(BadDecision, match="needs"):
        said(kind)


def test_a_name_of_blanks_or_of_a_book_is_refused() -> None:
    with pytest.raises(BadDecision, match="needs after"):
        said("rename", "A", "  ")
    with pytest.raises(BadDecision, match="500"):
        said("rename", "A", "b" * 501)


def test_a_hostile_name_stays_one_line(tmp_path: Path) -> None:
    name = 'a\n{"kind": "right"}\u2028\u0085\r"</script>'
    log = DecisionLog(tmp_path)
    log.append([said("rename", "A", name)])
    assert (tmp_path / "review" / "decisions.jsonl").read_bytes().count(b"\n") == 1
    assert effective_decisions(tmp_path).aliases == {"A": name}


def test_a_line_that_a_crash_cut_off_costs_no_other(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    log.append([said("right", "A", uri="x")])
    file = tmp_path / "review" / "decisions.jsonl"
    with file.open("ab") as crashed:
        crashed.write(said("right", "A", uri="y").to_line()[:40])
    assert set(effective_decisions(tmp_path).photos) == {"x"}
    log.append([said("right", "A", uri="z")])
    found = effective_decisions(tmp_path)
    assert set(found.photos) == {"x", "z"}
    assert len(found.damaged) == 1
    assert found.damaged[0] in file.read_bytes()  # kept as it was


@pytest.mark.parametrize(
    "line", [b"null", b"[]", b'{"kind": "dance"}', b'{"kind": "right"}', b"\xff\xfe", b"[" * 90_000]
)
def test_lines_that_are_no_decisions_are_kept_aside(tmp_path: Path, line: bytes) -> None:
    log = DecisionLog(tmp_path)
    log.append([said("right", "A", uri="x")])
    with (tmp_path / "review" / "decisions.jsonl").open("ab") as other:
        other.write(line + b"\n")
    found = effective_decisions(tmp_path)
    assert (set(found.photos), found.damaged) == ({"x"}, (line,))


def test_what_a_later_version_adds_is_passed_over() -> None:
    line = json.loads(said("right", "A", uri="x").to_line()) | {"mood": "good"}
    assert Decision.from_line(json.dumps(line).encode()).uri == "x"


def _writer(folder: str, who: int) -> None:
    log = DecisionLog(folder)
    for number in range(50):
        log.append([Decision(Kind.RIGHT, f"person {who}", uri=f"{who}/{number}", before="A" * 400)])


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    people = [spawn.Process(target=_writer, args=(str(tmp_path), who)) for who in range(3)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    found = effective_decisions(tmp_path)
    assert (len(found.photos), found.damaged) == (150, ())


def test_a_second_reader_sees_what_is_new(tmp_path: Path) -> None:
    one, other = DecisionLog(tmp_path), DecisionLog(tmp_path)
    assert other.read() == ([], ())
    one.append([said("right", "A", uri="x")])
    assert len(other.read()[0]) == 1
    one.append([said("right", "A", uri="y")])
    assert [each.uri for each in other.read()[0]] == ["x", "y"]


def test_an_object_store_has_an_object_per_batch() -> None:
    folder = "memory://reviewed/run"
    one, other = DecisionLog(folder), DecisionLog(folder)
    first, second = said("right", "A", uri="x"), said("name", "A", "B", uri="x")
    one.append([first])
    other.append([second])
    assert [each.id for each in one.read()[0]] == [first.id, second.id]
    assert effective_decisions(folder).photos["x"].name == "B"


def test_two_writers_on_s3_lose_nothing_and_an_audit_is_drawn_once(s3) -> None:
    s3.mkdir("reviews")
    folder = "s3://reviews/runs/mine"
    ann, bob = DecisionLog(folder), DecisionLog(folder)
    for number in range(5):
        ann.append([said("right", "A", uri=f"a{number}")])
        bob.append([said("name", "A", "B", uri=f"b{number}")])
    assert len(ann.read()[0]) == len(bob.read()[0]) == 10
    drawn = (Drawn(0, "a0", 0, "A", 0.5),)
    first = AuditSample(seed=0, sizes=(9,), photos=drawn).store(ann.place)
    second = AuditSample(seed=1, sizes=(9,), photos=(Drawn(1, "a1", 0, "A", 0.5),)).store(bob.place)
    assert first == second  # whoever is first draws it
    found = effective_decisions(folder)
    assert len(found.photos) == 10
    assert found.held_out == {"a0"}
    assert set(found.for_training) == {*(f"a{n}" for n in range(1, 5)), *(f"b{n}" for n in range(5))}
