"""The stage augment without Ray: drawn birds of rare names, judged by this run's classifier, learned by students."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from cluster.part_actor import PartJob, compute_part
from cluster.parts import IDS
from cluster.stage import RunContext, StageFolder, StageSummary
from fgvr import storage, tables
from fgvr.augment.kept import kept_pictures
from fgvr.augment.pictures import Asked, Made
from fgvr.config import Config, ConfigError, build
from fgvr.config.tree import merge
from fgvr.demo.samples import sample
from fgvr.demo.species import SPECIES
from fgvr.errors import UserError
from fgvr.images.read import read_image
from fgvr.schemas import SYNTHETIC
from fgvr.tables import Table
from fgvr.training.reporter import LocalReporter
from fgvr.training.student import StudentTrainer, train_student
from fgvr.training.student_data import StudentTrainingError
from fgvr.training.swaps import NO_PICTURE
from pipelines.asks import tasks
from pipelines.augment import Synthetic
from pipelines.makd import Base, Makd
from pipelines.photo_counts import Photos
from pipelines.run_tables import Look, Run
from pipelines.student_pictures import decided_by_pictures
from pipelines.student_task import student_tables
from tests.untracked import NoTracking

RARE, COMMON = SPECIES[0].name, SPECIES[12].name
KINDS = tuple(SPECIES[number] for number in range(0, 36, 3))
"""Two species of each genus."""


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve species: five drawings of each, and of one seven."""
    place = tmp_path_factory.mktemp("birds")
    lines, counts = ["uri,split,class_name"], dict.fromkeys(range(36), 0)
    for index in range(36 * 8):
        drawing = sample(5, "augment", index, difficulty=1.0)
        species = SPECIES[drawing.class_id or 0]
        if species not in KINDS or counts[species.class_id] == (7 if species.name == COMMON else 5):
            continue
        counts[species.class_id] += 1
        file = place / f"{index:04d}.jpg"
        file.write_bytes(drawing.jpeg())
        lines.append(f"{file},train,{species.name}")
    (place / "photos.csv").write_text("\n".join(lines))
    return place / "photos.csv"


def config(listing: Path, **parts: Any) -> Config:
    columns = {"split_column": "split", "class_column": "class_name"}
    base = {
        "ingest": {"source": {"kind": "table", "path": str(listing), **columns}},
        "augment": {
            "alpha": 0.5,
            "below": 6,
            "top_k": 3,
            "generator": {"kind": "drawn", "difficulty": 1.0},
        },
        "heads": {"whiten": False},
        "makd": {"backbone": "test_vit", "image_size": 32, "alpha": 0, "epochs": 2, "batch_size": 16, "lr": 0.01},
        "run": {"max_error_share": 0.5},
        "tracking": {"log_models": False},
    }
    return build(merge(base, parts))


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_parts(folder: StageFolder, job: PartJob, ids: np.ndarray, _: str) -> StageSummary:
        """In place of Ray: the rows of all ids, computed here."""
        rows = job.samples.take(ids, list(job.columns))
        return folder.write_table(job.worker(**job.arguments).process(rows).cast(job.schema))

    monkeypatch.setattr(StageFolder, "run_parts", run_parts)


def run_of(made: Config, folder: Path) -> Run:
    return Run(RunContext(made, str(folder), NoTracking()))


def reasons(table: Table) -> dict[str | None, int]:
    counts = table.read(["reason"])["reason"].value_counts().to_pylist()
    return {row["values"]: row["counts"] for row in counts}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run whose finished tables several tests read."""
    return tmp_path_factory.mktemp("run")


def test_two_pictures_of_each_photo_of_a_rare_name_are_made_and_mostly_kept(listing: Path, folder: Path) -> None:
    run = run_of(config(listing), folder)
    table = run.table("synthetic")
    assert (table.rows, table.failed) == (2 * 5 * 11, 0)
    rows = table.read()
    assert rows.schema.equals(SYNTHETIC)
    assert COMMON not in rows["name"].to_pylist()  # seven photos are not fewer than six
    names = dict(zip(*(run.table("samples").read()[c].to_pylist() for c in ("image_id", "class_name")), strict=True))
    assert [names[source] for source in rows["source_id"].to_pylist()] == rows["name"].to_pylist()
    kept = rows.filter(rows["kept"])
    # The shipped CLIP has seen nothing but birds: to it the negative prompts are noise, which some birds resemble.
    assert kept.num_rows >= 0.6 * table.rows, reasons(table)
    assert pc.max(kept["rank"]).as_py() <= 3
    assert kept["reason"].null_count == kept.num_rows
    assert all(name in prompt for name, prompt in zip(*(rows[c].to_pylist() for c in ("name", "prompt")), strict=True))
    with Image.open(io.BytesIO(rows["image"][0].as_py())) as picture:
        assert (picture.format, picture.size) == ("JPEG", (64, 64))
    metrics = table.extra["metrics"]
    assert (metrics["kept"], metrics["rare_names"]) == (kept.num_rows, 11)
    assert metrics["kept"] + sum(n for name, n in metrics.items() if name.startswith("rejected_")) == table.rows


def test_a_generator_of_other_species_is_rejected(listing: Path, folder: Path) -> None:
    wrong = config(listing, augment={"generator": {"species": "other"}})
    table = run_of(wrong, folder).table("synthetic")
    rejected = table.rows - int(table.extra["metrics"]["kept"])
    assert rejected >= 0.9 * table.rows, reasons(table)
    assert table.read(["image"])["image"].null_count == 0  # to be looked at
    assert any(f"{rejected} of {table.rows} pictures are rejected" in line for line in table.extra["remarks"])


def test_ranks_alone_tell_the_species_apart(listing: Path, folder: Path) -> None:
    shares = {}
    for species in ("same", "other"):
        alone = config(listing, augment={"negatives": [], "top_k": 2, "generator": {"species": species}})
        table = run_of(alone, folder).table("synthetic")
        shares[species] = table.extra["metrics"]["kept"] / table.rows
        assert set(reasons(table)) <= {None, "not_the_name"}
    assert shares["same"] >= 0.9, shares
    assert shares["other"] <= 0.1, shares


def test_clip_without_training_ranks_where_there_is_no_classifier(listing: Path, folder: Path, tmp_path: Path) -> None:
    zero = config(listing, augment={"ranked_by": "zero_shot"})
    assert "embeddings" not in list(Synthetic().reads(run_of(zero, folder)))
    table = run_of(zero, folder).table("synthetic")
    assert table.extra["metrics"]["kept"] >= 0.5 * table.rows, reasons(table)
    vectors = {"kind": "file", "path": str(tmp_path / "v.npz")}
    assert "embeddings" not in list(Synthetic().reads(run_of(config(listing, embed={"vectors": vectors}), folder)))
    made_up = config(listing, embed={"vectors": {"kind": "simulated"}})
    with pytest.raises(ConfigError, match=r"augment\.ranked_by = run: made-up vectors"):
        Synthetic().check(made_up)


def test_kept_pictures_are_read_like_photos_and_no_more_than_asked_of_each(listing: Path, folder: Path) -> None:
    run = run_of(config(listing), folder)
    table = run.table("synthetic")
    rows = table.read()
    kept = kept_pictures(table, 2)
    assert len(kept.uris) == pc.sum(rows["kept"]).as_py()
    good = rows.filter(rows["kept"])
    assert kept.source_ids.tolist() == good["source_id"].to_pylist()
    for place in (0, len(kept.uris) // 2, len(kept.uris) - 1):
        image = read_image(kept.uris[place], run.config.ingest.limits)
        with Image.open(io.BytesIO(good["image"][place].as_py())) as picture:
            assert np.array_equal(np.asarray(image), np.asarray(picture.convert("RGB")))
    one = kept_pictures(table, 1)
    assert len(set(one.source_ids.tolist())) == len(one.source_ids) == len(set(kept.source_ids.tolist()))


def trained(run: Run, stage: Makd | Base, place: Path) -> tuple[Any, LocalReporter]:
    """The stage's job, and the reporter of its training in this process."""
    for name in stage.reads(run):
        run.table(name)
    job = stage.training(run, StageFolder(str(place / "table"), stage.table, run.context)).job
    reporter = LocalReporter(place / "run")
    train_student(job, reporter)
    return job, reporter


def test_students_see_the_kept_pictures_of_their_photos(listing: Path, folder: Path, tmp_path: Path) -> None:
    run = run_of(config(listing), folder)
    assert list(student_tables(run, run.config.makd)) == ["samples", "synthetic"]
    job, _ = trained(run, Base(), tmp_path)
    trainer = StudentTrainer(job, LocalReporter(tmp_path / "again"))
    swaps, examples = trainer.data.loader.swaps, trainer.examples
    assert swaps is not None
    kept = kept_pictures(run.table("synthetic"), 2)
    sources = set(examples.image_ids[swaps.sources].tolist())
    assert sources <= set(kept.source_ids.tolist())
    assert not examples.held_out[swaps.sources].any()
    of_training = set(kept.source_ids.tolist()) - set(examples.image_ids[examples.held_out].tolist())
    assert sources == of_training
    picked = swaps.draw(np.repeat(swaps.sources, 40), np.random.default_rng(0)) != NO_PICTURE
    assert abs(picked.mean() - 0.5) < 0.1


def test_without_alpha_nothing_is_different(listing: Path, folder: Path) -> None:
    off = config(listing, augment={"alpha": 0, "below": 99})
    assert not Synthetic().wanted(off)
    assert Synthetic().wanted(config(listing))
    run = run_of(off, folder)
    assert list(student_tables(run, off.makd)) == ["samples"]
    assert decided_by_pictures(off) == {}
    assert decided_by_pictures(config(listing)) == {"synthetic": {"rules": 1, "alpha": 0.5, "max_per_source": 2}}


def test_a_lost_table_of_pictures_is_an_error_that_says_so(listing: Path, folder: Path, tmp_path: Path) -> None:
    run = run_of(config(listing), folder)
    job = Base().training(run, StageFolder(str(tmp_path / "table"), "base", run.context)).job
    uris = tmp_path / "table" / "pictures" / "uris.arrow"
    gone = uris.read_bytes().replace(b"part-00000000", b"part-00000009")
    uris.write_bytes(gone)
    with pytest.raises(StudentTrainingError, match=r"generated pictures cannot be read .*table `synthetic`"):
        train_student(job, LocalReporter(tmp_path / "run"))


def test_no_rare_name_is_an_empty_table_that_says_so(listing: Path, tmp_path: Path) -> None:
    run = run_of(config(listing, augment={"below": 5}), tmp_path)
    table = run.table("synthetic")
    assert (table.rows, table.read().num_rows) == (0, 0)
    assert "no name has fewer than augment.below = 5 photos" in table.extra["remarks"][0]
    kept = kept_pictures(table, 2)
    assert (len(kept.uris), kept.source_ids.tolist()) == (0, [])
    job, _ = trained(run, Base(), tmp_path)
    assert StudentTrainer(job, LocalReporter(tmp_path / "again")).data.loader.swaps.sources.tolist() == []


def test_of_one_name_the_ranks_reject_nothing_and_it_says_so(listing: Path, tmp_path: Path) -> None:
    lines = listing.read_text().splitlines()
    (tmp_path / "one.csv").write_text("\n".join([lines[0], *(line for line in lines if line.endswith(f",{RARE}"))]))
    run = run_of(config(tmp_path / "one.csv"), tmp_path)
    table = run.table("synthetic")
    assert table.rows == 10
    assert any("augment.top_k = 3 of 1 names" in line for line in table.extra["remarks"])
    assert set(table.read(["rank"])["rank"].to_pylist()) <= {1, None}


def test_a_photo_that_cannot_be_read_is_a_row_with_the_reason(listing: Path, tmp_path: Path) -> None:
    lines = listing.read_text().splitlines()
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff nothing")
    lines[1] = f"{tmp_path / 'bad.jpg'},train,{lines[1].rpartition(',')[2]}"
    lines[2] = f"{tmp_path / 'gone.jpg'},train,{lines[2].rpartition(',')[2]}"
    (tmp_path / "photos.csv").write_text("\n".join(lines))
    run = run_of(config(tmp_path / "photos.csv", augment={"ranked_by": "zero_shot"}), tmp_path)
    table = run.table("synthetic")
    assert table.failures == {"corrupt": 2, "not_found": 2}
    failed = table.read().filter(table.read()["error"].is_valid())
    assert failed["kept"].null_count == failed["image"].null_count == 4
    assert failed["name"].null_count == failed["prompt"].null_count == 0


class Moody:
    """A generator that fails on some seeds, and gives rubbish for others."""

    size, square, sees_subjects = 64, True, False

    def __init__(self, failing: set[int], empty: set[int]) -> None:
        self.failing, self.empty, self.calls = failing, empty, list[int]()

    def make(self, asked: Sequence[Asked]) -> list[Made]:
        self.calls.append(len(asked))
        if any(each.seed in self.failing for each in asked):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return [self._made(each) for each in asked]

    def _made(self, each: Asked) -> Made:
        from fgvr.augment.pictures import made_of

        value = np.zeros((64, 64, 3)) if each.seed in self.empty else np.asarray(each.photo) / 255
        return made_of(np.where(value > 2, 0, value) if each.seed % 2 else value)


def parts_of(run: Run, folder: Path, size: int) -> tuple[PartJob, dict[str, Any]]:
    """The job of the stage's workers, in parts of so many rows."""
    job = Synthetic().job(run)
    workers = build({"augment": {"workers": {"rows_per_part": size}}}).augment.workers
    assert job.rows is not None
    storage.write_bytes(str(folder / IDS), job.ids.astype("<i8").tobytes())
    made = PartJob("synthetic", str(folder), job.worker, job.arguments, job.schema, job.rows, workers, job.columns)
    return made, dict(job.arguments)


def test_a_picture_that_fails_is_a_row_and_is_tried_again(listing: Path, tmp_path: Path) -> None:
    run = run_of(config(listing, augment={"ranked_by": "zero_shot", "batch_images": 4}), tmp_path)
    run.table("samples")
    (tmp_path / "parts").mkdir()
    parts, arguments = parts_of(run, tmp_path / "parts", 8)
    seeds = parts.samples.take(np.arange(16), ["seed"])["seed"].to_pylist()
    moody = Moody(failing={seeds[2]}, empty={seeds[5]})
    summary = compute_part(parts, parts.worker(**arguments, loaded=moody), 0, again=False)
    assert moody.calls == [4, 1, 1, 1, 1, 4]  # the first four together, then alone, and the next four
    assert summary["failures"] == {"engine_error": 1}
    rows = tables.read_part(parts.folder, 0).to_pylist()
    assert [row["synthetic_id"] for row in rows if row["error"]] == [2]
    assert "shapes cannot be multiplied" in rows[2]["error"]["detail"]
    assert (rows[5]["kept"], rows[5]["reason"]) == (False, "blank")
    assert tables.finished_parts(parts.folder) == {0}  # a session that is killed here goes on with part 1
    better = Moody(failing=set(), empty=set())
    worker = parts.worker(**arguments, loaded=better)
    assert compute_part(parts, worker, 0, again=True)["failures"] == {}
    assert better.calls == [1]
    again = tables.read_part(parts.folder, 0).to_pylist()
    assert [row for row in again if row["synthetic_id"] != 2] == [row for row in rows if row["synthetic_id"] != 2]
    assert compute_part(parts, worker, 1, again=False)["rows"] == 8


def test_running_out_of_memory_ends_the_worker(listing: Path, tmp_path: Path) -> None:
    import torch

    class Full(Moody):
        def make(self, asked: Sequence[Asked]) -> list[Made]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    run = run_of(config(listing, augment={"ranked_by": "zero_shot"}), tmp_path)
    run.table("samples")
    (tmp_path / "parts").mkdir()
    parts, arguments = parts_of(run, tmp_path / "parts", 8)
    with pytest.raises(torch.OutOfMemoryError):
        compute_part(parts, parts.worker(**arguments, loaded=Full(set(), set())), 0, again=False)


def test_the_bill_knows_how_many_pictures_there_are_at_most(listing: Path, tmp_path: Path) -> None:
    made = config(listing)
    rows = run_of(made, tmp_path).table("samples").read()
    look = Look(made, str(tmp_path / "none"), Photos.of_rows([rows]))
    (task,) = [task for task in tasks(look, ["base"]) if task.stage == "synthetic"]
    assert task.work.rows == 2 * 5 * 11


def test_a_generator_that_is_not_named_is_refused_before_anything_starts(listing: Path) -> None:
    made = build({"augment": {"alpha": 0.4}})
    with pytest.raises(UserError, match=r"augment\.generator\.model: name the folder"):
        Synthetic().check(made)
    Synthetic().check(config(listing))
