"""The stage signatures without Ray: its rows, its parts, what it asks, what is wrong with a config, who learns it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.part_actor import PartJob, compute_part
from cluster.parts import IDS
from cluster.stage import RunContext, StageFolder, StageSummary
from fgvr import storage, tables
from fgvr.config import Config, ConfigError, build
from fgvr.errors import UserError
from fgvr.failures import Failures
from fgvr.mllm.choices import ChoiceAnswer, ChoiceTask
from fgvr.mllm.signature_worker import ClassRows, SignatureSettings, SignatureWorker, signature_matrix
from fgvr.schemas import SIGNATURES, Failure, Reason
from pipelines.asks import asks
from pipelines.bill import _remedy
from pipelines.makd import Base
from pipelines.photo_counts import Photos
from pipelines.run_tables import Look, Run
from pipelines.signatures import Signatures
from pipelines.stage import RowJob
from pipelines.student_task import assembled, signatures_of, student_spec, student_tables, student_task
from tests.untracked import NoTracking

KNOWN: dict[str, tuple[list[float], list[float]]] = {
    "Teal": ([0.1, 0.2, 0.7], [0.5, 0.5]),
    "Wren": ([0.8, 0.1, 0.1], [0.9, 0.1]),
}
CHOICES = "Which beak? | thin | hooked | flat\nHow large? | small | large\n"


class Knows:
    """Answers about the birds it knows; it is asked one after the other."""

    def __init__(self, known: Mapping[str, tuple[list[float], list[float]]], mass: float = 0.9) -> None:
        self.known, self.mass, self.asked = known, mass, list[str]()

    def choices(self, names: Iterable[str], task: ChoiceTask) -> list[ChoiceAnswer]:
        return [self._answer(name, task) for name in names]

    def _answer(self, name: str, task: ChoiceTask) -> ChoiceAnswer:
        self.asked.append(name)
        if name not in self.known:
            return ChoiceAnswer(failure=Failure(Reason.REFUSED, "no bird"))
        shares = tuple(np.array(each, np.float32) for each in self.known[name])
        return ChoiceAnswer(shares, np.full(len(shares), self.mass, np.float32), 10 * len(task.turns), 4)


def config(tmp_path: Path, **makd: Any) -> Config:
    """Five training photos of three classes."""
    listing = ["uri,split,class_name"]
    listing += [f"{tmp_path}/{n}.png,train,{name}" for n, name in enumerate(("Teal", "Wren", "Teal", "Gnome", "Wren"))]
    (tmp_path / "photos.csv").write_text("\n".join(listing))
    (tmp_path / "choices.txt").write_text(CHOICES)
    columns = {"split_column": "split", "class_column": "class_name"}
    return build(
        {
            "ingest": {"source": {"kind": "table", "path": str(tmp_path / "photos.csv"), **columns}},
            "signatures": {"file": str(tmp_path / "choices.txt"), "llm": {"kind": "simulated"}, "rotations": 2},
            "makd": {"validation_share": 0, "alpha": 0, "signature_weight": 2, "backbone": "test_vit", **makd},
            "run": {"max_error_share": 0.5},
        }
    )


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def in_this_process(folder: StageFolder, job: PartJob, ids: np.ndarray, _: str) -> StageSummary:
        """In place of Ray: the rows of all ids, computed here."""
        rows = job.samples.take(ids, list(job.columns))
        worker = SignatureWorker(job.arguments["settings"], Knows(KNOWN))
        return folder.write_table(worker.process(rows).cast(job.schema))

    monkeypatch.setattr(StageFolder, "run_parts", in_this_process)
    return Run(RunContext(config(tmp_path), str(tmp_path / "run"), NoTracking()))


def test_one_row_per_class_and_a_class_that_fails_is_a_row_with_its_reason(flow: Run) -> None:
    table = flow.table("signatures")
    assert (table.rows, table.failed, table.failures) == (3, 1, {"refused": 1})
    gnome, teal, wren = table.read().to_pylist()
    assert (gnome["class_id"], gnome["name"], gnome["probabilities"]) == (0, "Gnome", None)
    assert gnome["error"] == {"reason": "refused", "detail": "Gnome: no bird"}
    assert (teal["name"], teal["probabilities"][0]) == ("Teal", pytest.approx([0.1, 0.2, 0.7]))
    assert wren["probabilities"][1] == pytest.approx([0.9, 0.1])
    assert wren["prompt_tokens"] == 40  # two rotations of two questions
    assert table.extra["choices"] == [["Which beak?", "thin", "hooked", "flat"], ["How large?", "small", "large"]]


def test_the_student_learns_them_and_the_base_does_not(flow: Run) -> None:
    makd, base = flow.config.makd, Base().settings(flow.config)
    assert list(student_tables(flow, makd)) == ["samples", "signatures"]
    assert list(student_tables(flow, base)) == ["samples"]
    task = student_task(flow, makd)
    spec = student_spec(flow, task, assembled(flow, task))
    assert (spec.labels, spec.questions, spec.outputs) == (("Gnome", "Teal", "Wren"), (), 3 + 3 + 2)
    assert [question.texts[0] for question in spec.choices] == ["Which beak?", "How large?"]
    found = signatures_of(flow, task)
    assert found is not None
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1:], [[0.1, 0.2, 0.7, 0.5, 0.5], [0.8, 0.1, 0.1, 0.9, 0.1]], rtol=1e-6)
    plain = student_task(flow, base)
    assert student_spec(flow, plain, assembled(flow, plain)).choices == ()
    assert signatures_of(flow, plain) is None


def test_a_model_that_says_something_else_than_letters_fails() -> None:
    settings = SignatureSettings(ChoiceTask((), "", 1), min_label_mass=0.5)
    rows = ClassRows(("Teal",)).take(np.array([0]))
    error = SignatureWorker(settings, Knows(KNOWN, mass=0.1)).process(rows)["error"][0].as_py()
    assert error["reason"] == "no_label_mass"
    assert error["detail"].startswith("Teal: mean p(letters) = 0.1 is below signatures.min_label_mass")


def parts_of(folder: Path, job: RowJob, size: int) -> PartJob:
    """The job of the stage's workers, in parts of so many rows."""
    workers = build({"signatures": {"workers": {"rows_per_part": size}}}).signatures.workers
    assert job.rows is not None
    storage.write_bytes(str(folder / IDS), job.ids.astype("<i8").tobytes())
    return PartJob(
        "signatures", str(folder), job.worker, job.arguments, job.schema, job.rows, workers, columns=job.columns
    )


def test_parts_are_computed_alone_and_failed_classes_again(tmp_path: Path) -> None:
    run = Run(RunContext(config(tmp_path), str(tmp_path / "run"), NoTracking()))
    run.table("samples")
    job = Signatures().job(run)
    assert job.ids.tolist() == [0, 1, 2]
    parts, first = parts_of(tmp_path / "parts", job, 2), Knows(KNOWN)
    summary = compute_part(parts, SignatureWorker(job.arguments["settings"], first), 0, again=False)
    assert first.asked == ["Gnome", "Teal"]
    assert summary["failures"] == {"refused": 1}
    # The class, and not the photo of that number:
    assert Failures.from_json(summary["failures"], summary["examples"]).in_words() == "refused (1), e.g. Gnome: no bird"
    assert tables.finished_parts(parts.folder) == {0}  # a session that ends here goes on with part 1
    better = Knows(KNOWN | {"Gnome": ([1.0, 0.0, 0.0], [1.0, 0.0])})
    worker = SignatureWorker(job.arguments["settings"], better)
    assert compute_part(parts, worker, 1, again=False)["failures"] == {}
    assert compute_part(parts, worker, 0, again=True)["failures"] == {}
    assert better.asked == ["Wren", "Gnome"]
    rows = tables.read_part(parts.folder, 0)
    assert rows["name"].to_pylist() == ["Gnome", "Teal"]
    assert rows.schema.equals(SIGNATURES)
    np.testing.assert_allclose(signature_matrix(rows)[0], [1, 0, 0, 1, 0])


def test_the_bill_counts_every_rotation(tmp_path: Path) -> None:
    photos = Photos.of_rows(
        [Run(RunContext(config(tmp_path), str(tmp_path / "r"), NoTracking())).table("samples").read()]
    )
    look = Look(config(tmp_path), str(tmp_path / "none"), photos)
    (line,) = asks(look, ["signatures"])
    assert (line.stage, line.rows, line.row.requests, line.row.output, line.at_most) == ("signatures", 3, 4, 4, False)
    # About 50 tokens of frame, question, options and instruction each.
    assert 4 * 30 < line.row.prompt < 4 * 80
    assert [ask.stage for ask in asks(look, ["makd"])] == ["signatures"]
    assert [ask.stage for ask in asks(look, ["base"])] == []
    assert "signatures" in _remedy_of("signatures")


def _remedy_of(stage: str) -> str:
    from types import SimpleNamespace

    return _remedy(SimpleNamespace(ask=SimpleNamespace(stage=stage)), 7)  # type: ignore[arg-type]


def test_names_that_a_method_gives_are_no_more_than_the_labels(tmp_path: Path) -> None:
    named = config(tmp_path, target="near")
    look = Look(named, str(tmp_path / "none"), Photos({"train": 900, "test": 3}))
    (line,) = [ask for ask in asks(look, ["signatures"]) if ask.stage == "signatures"]
    assert line.at_most
    assert line.rows <= 900


def test_without_a_file_it_is_refused_only_where_signatures_are_learned(tmp_path: Path) -> None:
    stage = Signatures()
    assert not stage.wanted(build({}))
    assert stage.wanted(config(tmp_path))
    with pytest.raises(ConfigError, match=r"set signatures\.file.*or makd\.signature_weight to 0"):
        stage.check(build({"makd": {"signature_weight": 1}}))
    with pytest.raises(UserError, match="there is no file"):
        stage.check(build({"signatures": {"file": str(tmp_path / "no.txt")}}))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("{question} {options}", r"has no \{name\}"),
        ("{name} {question}", r"has no \{options\}"),
        ("{question}{options}{name}{class}", r"has \{class\}, which is not filled in"),
    ],
)
def test_a_prompt_without_its_places_is_refused(prompt: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"signatures": {"prompt": prompt}})


def test_a_model_of_text_alone_is_not_asked_for_vision(tmp_path: Path) -> None:
    stage, server = Signatures(), {"kind": "openai", "model": "m"}
    assert not stage.shows_images(config(tmp_path))
    assert stage.shows_images(build({"mllm": server}))
    assert stage.shows_images(build({"mllm": server, "signatures": {"llm": server}}))  # an engine that is there
    assert (stage.model(build({})), stage.model(config(tmp_path))) == ("mllm", "signatures.llm")
