"""compare: which backbone for the student? Trains and measures several under equal conditions. Out: comparison.

    python pipelines/compare.py --compare.models "[resnet18, convit_tiny]" --compare.seeds 3 --compare.max_ms 10

Each backbone is trained as the student of `makd` without aspects (same photos, targets, recipe and pixels), once per
seed, in a table `compared_<backbone>_<seed>` of its own: a job that is killed loses at most one training, a further
backbone trains alone. Then each is measured on the photos of `evaluate.split` whose true class is known: top-1, top-5,
macro-F1, silhouette; and by itself: weights, multiply-adds, milliseconds, memory, gradient activity. With
`compare.test_column` photos of other sources are a test of their own. A training that fails is a row with its reason.
`report/comparison.html` in the run's folder has the tables, the drawing and a recommendation for the budget. Not part
of full.py. See docs/compare.md.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from fgvr import storage
from fgvr.config import Config, ConfigError
from fgvr.config import Makd as MakdConfig
from pipelines.asks import Work
from pipelines.command import stage_main
from pipelines.makd import WITHOUT_ASPECTS, Student
from pipelines.registry import COMPARED, compared_tables
from pipelines.run_tables import Look, Run, per_samples
from pipelines.stage import Stage
from pipelines.student_images import learned_rows
from pipelines.student_task import StudentTask, student_task
from pipelines.train_stage import MODEL_FOLDER

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.compare.measure import Measured, Tested
    from fgvr.report.comparison import ComparisonPage
    from fgvr.tables import Table

log = logging.getLogger(__name__)

MEASURING: Final = 1
"""Increase it when the same students would give other rows."""
FAILED: Final = "training_failed"
PAGE: Final = "comparison.html"
OUTCOMES: Final = "outcomes.parquet"
AT_RANDOM: Final = {"freeze_epochs": 0, "batch_norm": "batch", "layer_decay": 1.0}
"""What a student without pretrained weights takes instead of fields that only these make sense with."""
SHOWN: Final = 12
"""How many values a message lists."""


def backbone_of(table: str) -> tuple[str, int]:
    """The backbone and the number of the training, from the name of a student's table."""
    model, _, seed = table.removeprefix(COMPARED).rpartition("_")
    return model, int(seed)


class ComparedStudent(Student):
    """A student of one backbone and seed: the table `compared_<backbone>_<seed>`."""

    logs_model = False

    def __init__(self, name: str) -> None:
        """The stage of the backbone and seed that the name joins."""
        self.table = f"{COMPARED}{name}"  # type: ignore[misc]  # of a family of tables each has its own
        self.model_name, self.number = backbone_of(self.table)

    def wanted(self, config: Config) -> bool:
        """No whole job needs it."""
        return False

    def settings(self, config: Config) -> MakdConfig:
        """The recipe of `makd` without aspects and metadata, with this backbone, its own weights, and this seed."""
        from fgvr.config.metadata import FusedMetadata

        makd = config.makd
        own: dict[str, Any] = {
            "backbone": self.model_name,
            "weights": config.compare.weights.get(self.model_name),
            "seed": makd.seed + self.number,
            "metadata": FusedMetadata(),
        }
        if own["weights"] is None:
            own |= AT_RANDOM
        return makd.model_copy(update=WITHOUT_ASPECTS | own)

    def check(self, config: Config) -> None:
        """Refuse names that timm does not know; a backbone that does not fit the input is a row with its reason."""
        check_comparison(config)

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Train; a backbone that cannot be built or diverges leaves an empty table that says why."""
        from fgvr.models.start_weights import StartError
        from fgvr.models.student import StudentError, build_student
        from fgvr.schemas import STUDENT_TARGETS
        from fgvr.training.student_data import StudentTrainingError
        from pipelines.student_task import spec_of

        try:
            build_student(spec_of(self.settings(run.config), ("a", "b"), ()))  # before its photos are prepared
            return super().compute(run, folder)
        except (StudentError, StartError, StudentTrainingError) as error:
            log.warning("%s: not trained: %s", self.table, error)
            summary = folder.write_table(STUDENT_TARGETS.empty_table())
            summary.extra = {FAILED: str(error)}
            return summary

    def _task(self, run: Run) -> StudentTask:
        """Without the photos that are kept for the test across sources."""
        import numpy as np
        import pyarrow as pa

        task, kept = student_task(run, self.settings(run.config)), held_back(run)
        if not len(kept):
            return task
        others = ~np.isin(task.rows["image_id"].to_numpy(), kept)
        if not others.any():
            raise ConfigError(
                f"compare.test_values: every photo that students would learn from has one of these values of "
                f"{run.config.compare.test_column}; leave some out"
            )
        return replace(task, rows=task.rows.filter(pa.array(others)), sampled=True)


class Comparison(Stage):
    """Backbones side by side: one row per backbone, seed, source of test photos and measure."""

    table = "comparison"
    phase = None
    one_call = True

    def wanted(self, config: Config) -> bool:
        """No whole job needs it."""
        return False

    def check(self, config: Config) -> None:
        """Check the names, and that the column of the test across sources is kept."""
        check_comparison(config)

    def recheck(self, run: Look) -> None:
        """Refuse a comparison without test photos as soon as the photos are listed."""
        photos_tested(run)

    def workers(self, config: Config) -> str | None:
        """What measures the students."""
        return "compare.workers"

    def reads(self, run: Run) -> Iterable[str]:
        """The photos, and every student."""
        return ("samples", *compared_tables(run.config))

    def works(self, run: Run) -> Work:
        """The test photos, by every student."""
        config = run.config
        photos = run.photos.bounded(config.evaluate.split, config.evaluate.max_images)
        return Work(photos * len(compared_tables(config)))

    def recipe(self, run: Run) -> dict[str, Any]:
        """The test photos and how they are measured; the budget decides nothing that is measured."""
        from cluster.fingerprint import digest_of_ids
        from fgvr.models.infer import READING

        config = run.config
        return {
            "measuring": MEASURING,
            "reading": READING,
            "limits": config.ingest.limits,
            "tested": {photos.source: digest_of_ids(photos.ids) for photos in photos_tested(run)},
            "bootstrap": config.evaluate.bootstrap,
            "seed": config.evaluate.seed,
            "silhouette_images": config.compare.silhouette_images,
            "device": config.compare.workers.device,
            "threads": int(config.compare.workers.num_cpus),
        }

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Measure one student after the other; what was measured before an interruption is kept."""
        import pyarrow as pa

        from fgvr.compare.measure import ComparisonError
        from fgvr.compare.rows import failed_rows, measured_rows, outcome_rows
        from fgvr.schemas import COMPARISON

        photos = photos_tested(run)
        names = compared_tables(run.config)
        rows: list[dict[str, Any]] = []
        outcomes: list[pa.Table] = []
        devices: dict[str, None] = {}
        failures: dict[str, str] = {}
        for model in dict.fromkeys(run.config.compare.models):
            mine = [name for name in names if backbone_of(name)[0] == model]
            failures |= {name: run.table(name).extra[FAILED] for name in mine if FAILED in run.table(name).extra}
            trained = [run.table(name) for name in mine if name not in failures]
            for name in [name for name in mine if name in failures]:
                rows += failed_rows(*backbone_of(name), [each.source for each in photos], failures[name])
            for student, measured in zip(trained, self._measured(run, folder, trained, photos), strict=True):
                devices[measured.device] = None
                rows += measured_rows(*backbone_of(student.name), measured, _training_ms(student))
                outcomes.append(outcome_rows(*backbone_of(student.name), measured))
            log.info("comparison: %s is measured", model)
        if not outcomes:
            raise ComparisonError(f"no backbone could be trained: {next(iter(failures.values()))}")
        summary = folder.write_table(pa.Table.from_pylist(rows, schema=COMPARISON))
        folder.write_bytes(OUTCOMES, _parquet(pa.concat_tables(outcomes)))
        summary.extra = {
            "conditions": _conditions(run, [name for name in names if name not in failures], list(devices)),
            "said": list(_remarks(run, photos)),
            "failed": failures,
        }
        return summary

    def made(self, run: Run, table: Table) -> None:
        """Write the page for today's budget to a path that does not depend on the config."""
        from cluster import lease

        lease.check(run.folder)
        page = comparison_page(run, table)
        storage.write_bytes(storage.join(run.folder, "report", PAGE), page.to_html().encode())

    def _measured(
        self, run: Run, folder: StageFolder, students: Sequence[Table], photos: Sequence[Tested]
    ) -> list[Measured]:
        """The trainings of one backbone, measured in one process; of those measured before, what was kept."""
        from cluster.once import run_once
        from fgvr.compare.measure import Measured, MeasureJob, measure_students

        config = run.config
        places = [folder.path(f"measured_{student.name}.json") for student in students]
        jobs = [
            MeasureJob(
                model=student.path(MODEL_FOLDER),
                costs=number == 0,
                tested=photos,
                limits=config.ingest.limits,
                device=config.compare.workers.device,
                threads=max(1, int(config.compare.workers.num_cpus)),
                resamples=config.evaluate.bootstrap,
                silhouette_images=config.compare.silhouette_images,
                seed=config.evaluate.seed,
                max_error_share=config.run.max_error_share,
            )
            for number, student in enumerate(students)
        ]
        if jobs and not all(map(storage.exists, places)):
            for place, found in zip(
                places, run_once(measure_students, jobs, workers=config.compare.workers), strict=True
            ):
                storage.write_bytes(place, json.dumps(found.to_json()).encode())
        return [Measured.of_json(json.loads(storage.read_bytes(place))) for place in places]


def check_comparison(config: Config) -> None:
    """Check before anything starts what the config alone can show.

    Raises:
        ConfigError: there is nothing to compare, or nothing to compare on.
        StudentError: timm has no such backbone; the message names similar ones.
        MetadataError: the source does not keep the column.
    """
    from fgvr.models.student import check_backbone
    from fgvr.sources.metadata import check_columns

    compare, makd = config.compare, config.makd
    if not compare.models:
        raise ConfigError("compare.models is empty: name at least one backbone")
    for model in compare.models:
        check_backbone(model, "compare.models")
    if unknown := [model for model in compare.weights if model not in compare.models]:
        raise ConfigError(f"compare.weights names {unknown[0]}, which is not among compare.models")
    if makd.split == config.evaluate.split:
        raise ConfigError(f"makd.split = {makd.split}: the students would train on the images of evaluate.split")
    if compare.test_column is not None:
        check_columns(config.ingest.source, [compare.test_column], "compare.test_column")


@per_samples
def held_back(run: Run) -> Ids:
    """Ascending ids of the photos of the test across sources, of any split, which nobody learns from.

    Raises:
        ConfigError: no photo has one of the values.
    """
    import difflib
    from collections import Counter

    import numpy as np

    from fgvr.metadata.stored import metadata_batches

    compare = run.config.compare
    found, seen = [np.zeros(0, np.int64)], Counter[str]()
    if compare.test_column is None:
        return found[0]
    for rows in metadata_batches(run.table("samples"), None, [compare.test_column]):
        texts = rows[compare.test_column].to_pylist()
        seen.update(text for text in texts if text is not None)
        mine = np.array([text in compare.test_values for text in texts], bool)
        found.append(rows["image_id"].to_numpy()[mine])
    for value in compare.test_values:
        if value not in seen:
            near = difflib.get_close_matches(value, seen, n=3) or [name for name, _ in seen.most_common(SHOWN)]
            raise ConfigError(
                f"compare.test_values: no photo has {compare.test_column} = {value!r}; there are: {', '.join(near)}"
            )
    return np.sort(np.concatenate(found))


def photos_tested(run: Run) -> Sequence[Tested]:
    """The test photos whose true class is known: of `evaluate.split`, and those of other sources.

    Raises:
        ConfigError: there are none.
    """
    import numpy as np
    import pyarrow.compute as pc

    from fgvr.compare.measure import Tested
    from fgvr.sources.sampling import first_of, split_ids

    config, samples, kept = run.config, run.table("samples"), held_back(run)
    split = config.evaluate.split
    own = np.setdiff1d(split_ids(samples, [split]), kept, assume_unique=True)
    groups = [(split, own)]
    if config.compare.test_column is not None:
        groups.append((f"{config.compare.test_column} = {', '.join(config.compare.test_values)}", kept))
    found = []
    for source, ids in groups:
        rows = samples.take(ids, ["image_id", "uri", "class_name"]) if len(ids) else None
        named = None if rows is None else rows.filter(pc.is_valid(rows["class_name"]))
        if named is None or not named.num_rows:
            if source == split and len(groups) > 1:
                continue  # all test photos are of other sources
            what = "photo" if rows is None else "photo of known class"
            raise ConfigError(
                f"nothing to compare backbones on: there is no {what} in {source} (evaluate.split, compare.test_values)"
            )
        chosen = first_of(named["image_id"].to_numpy(), config.evaluate.max_images, config.evaluate.seed)
        named = named.filter(pc.is_in(named["image_id"], value_set=_array(chosen)))
        found.append(Tested(source, chosen, named["uri"].to_pylist(), named["class_name"].to_pylist()))
    return found


def _array(ids: Ids) -> Any:
    import pyarrow as pa

    return pa.array(ids)


def _training_ms(student: Table) -> float | None:
    """Milliseconds per photo and epoch of a training: the mean over its epochs."""
    history = json.loads(storage.read_bytes(student.path("history.json")))
    paces = [row["images_per_second"] for row in history if row.get("images_per_second")]
    return 1000 * sum(1 / pace for pace in paces) / len(paces) if paces else None


def _parquet(rows: Any) -> bytes:
    import pyarrow.parquet as pq

    data = io.BytesIO()
    pq.write_table(rows, data)
    return data.getvalue()


def _conditions(run: Run, trained: Sequence[str], devices: Sequence[str]) -> list[tuple[str, str]]:
    """What was equal for all backbones."""
    makd, student = run.config.makd, run.table(trained[0])
    return [
        ("training photos", f"{student.extra['images']:,}"),
        ("names", f"{student.extra['classes']:,}, {student.extra['class_targets']}"),
        ("input", f"{makd.image_size} px"),
        ("epochs", f"{student.extra['epochs']:g}"),
        ("optimiser", f"{makd.optimizer}, lr {makd.lr:g}, batches of {makd.batch_size}"),
        ("trainings", f"{run.config.compare.seeds} per backbone"),
        ("measured on", "; ".join(devices)),
    ]


def _remarks(run: Run, photos: Sequence[Tested]) -> Iterable[str]:
    """What a reader must know."""
    compare = run.config.compare
    missing = [model for model in dict.fromkeys(compare.models) if model not in compare.weights]
    if compare.weights and missing:
        yield f"Unequal conditions: {', '.join(missing)} started from random weights, the others from pretrained ones."
    if run.config.makd.weights is not None:
        yield "makd.weights belong to makd.backbone and were not used; compare.weights names weights per backbone."
    if not compare.weights:
        yield (
            "All backbones started from random weights: with few photos that favours small convolutional networks and "
            "ranks nothing for pretrained ones."
        )
    yield "The same learning rate for all favours backbones that it suits; sweep it before a close decision (tune/)."
    if len({name for each in photos for name in each.true}) < 2:
        yield "The test photos are all of one class, so that the scores say little."
    learned = len(learned_rows(run))
    kept = len(held_back(run))
    if kept:
        yield f"{kept:,} photos of other sources were learned from by nobody ({learned:,} before they were left out)."


def comparison_page(run: Run, table: Table) -> ComparisonPage:
    """The comparison as it is shown, with a recommendation for today's budget."""
    import pyarrow.parquet as pq

    from fgvr.compare.choice import Budget
    from fgvr.report.comparison import page_of

    compare = run.config.compare
    outcomes = pq.read_table(io.BytesIO(storage.read_bytes(table.path(OUTCOMES))))
    budget = Budget(compare.max_ms, compare.max_params, compare.max_gmacs)
    conditions = [(what, value) for what, value in table.extra["conditions"]]
    said = table.extra["said"]
    return page_of(run.config.run.name, table.read(), outcomes, budget, conditions=conditions, remarks=said)


def show(run: Run) -> None:
    """Print the tables and the recommendation."""
    for line in comparison_page(run, run.table("comparison")).to_text().splitlines():
        log.info("%s", line)
    log.info("page: %s", storage.join(run.folder, "report", PAGE))


if __name__ == "__main__":
    stage_main(__doc__, "comparison", show=show)
