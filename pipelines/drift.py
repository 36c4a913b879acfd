"""drift: what has changed since training, and photos that fit nothing. In: embeddings, predictions. Out: drift, novel.

    python pipelines/drift.py --run.name mine --infer.split test --infer.drift.measure true

The photos that infer classifies are compared with photos of the training split that the model did not learn from: how
far they are from the training photos, how unsure the model is, and how often it gives each name. `drift` has a row per
part and test, corrected for their number; an alarm is in the log, the report, MLflow and Prometheus. `novel` has the
photos that are least like any that was learned from, in clusters; `novel/photos.csv` in the run folder is the next
discovery set (`label.images.only`). Another run takes `drift_reference/` with the model. See docs/drift.md.
"""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fgvr import storage
from fgvr.config import Config
from pipelines.asks import Work
from pipelines.command import stage_main
from pipelines.drift_reference import (
    REFERENCE_FILE,
    check_drift,
    given_reference,
    measured,
    new_ids,
    reference_file,
    vectors_of,
)
from pipelines.run_tables import Run
from pipelines.stage import RowJob, RowStage, Stage

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Doubles
    from fgvr.drift.parts import Judged, Part
    from fgvr.drift.reference import Reference

log = logging.getLogger(__name__)
PHOTOS_FILE = "photos.csv"
SHOWN = 5


class OfNewPhotos(Stage):
    """A stage about the photos that infer classifies."""

    phase = None

    def wanted(self, config: Config) -> bool:
        """Where it is to be measured."""
        return measured(config)

    def check(self, config: Config) -> None:
        """Check the settings, and a given reference."""
        check_drift(config)
        if config.infer.drift.reference is not None:
            given_reference(config)

    def own(self, run: Run) -> tuple[str, ...]:
        """The reference of this run, where no other is given."""
        return ("drift_reference",) if run.config.infer.drift.reference is None else ()

    def stated(self, run: Run) -> dict[str, Any]:
        """A given reference by its content."""
        config = run.config
        return {} if config.infer.drift.reference is None else {"reference": given_reference(config)[1]}

    def place(self, run: Run) -> str:
        """URI of the reference's file."""
        given = run.config.infer.drift.reference is not None
        return reference_file(run.config) if given else run.table("drift_reference").path(REFERENCE_FILE)

    def reference(self, run: Run) -> Reference:
        """The state of training."""
        from fgvr.drift.reference import Reference

        return Reference.from_bytes(storage.read_bytes(self.place(run)), self.place(run))


class DriftScores(OfNewPhotos, RowStage):
    """How far each photo is from those that were learned from, how unsure the model is of it, and how it fits."""

    table = "drift_scores"

    def workers(self, config: Config) -> str | None:
        """Those of the neighbour search."""
        return "neighbours.workers"

    def reads(self, run: Run) -> Iterable[str]:
        """The photos' vectors and predictions."""
        return ("samples", "embeddings", "predictions", *self.own(run))

    def recipe(self, run: Run) -> dict[str, Any]:
        """The photos, and the rules."""
        from cluster.fingerprint import digest_of_ids
        from fgvr.drift import scores

        return {"ids": digest_of_ids(new_ids(run)), "rules": scores.RULES, **self.stated(run)}

    def works(self, run: Run) -> Work | None:
        """No image is read."""
        return None

    def job(self, run: Run) -> RowJob:
        """One row per photo."""
        from fgvr.drift.score_worker import ScoreWorker
        from fgvr.schemas import DRIFT_SCORES

        arguments = {
            "reference": self.place(run),
            "embeddings": run.table("embeddings").uri,
            "predictions": run.table("predictions").uri,
            "threads": max(1, int(run.config.neighbours.workers.num_cpus)),
        }
        return RowJob(new_ids(run), ScoreWorker, arguments, DRIFT_SCORES, ("image_id",))


class Drift(OfNewPhotos):
    """Whether each part of the photos is as those of training were: a row per part and test, corrected for all."""

    table = "drift"

    def reads(self, run: Run) -> Iterable[str]:
        """The scores of the photos."""
        return ("drift_scores", *self.own(run))

    def recipe(self, run: Run) -> dict[str, Any]:
        """The parts, and the rules."""
        from fgvr.drift import parts

        drift = run.config.infer.drift
        return {"alpha": drift.alpha, "part": drift.part_images, "rules": parts.RULES, **self.stated(run)}

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Test part after part."""
        import pyarrow as pa

        from cluster.stage_progress import current
        from fgvr import schemas
        from fgvr.drift.parts import judged

        drift, scores = run.config.infer.drift, run.table("drift_scores")
        found = judged(list(_parts(scores, drift.part_images)), self.reference(run), drift.alpha)
        columns = {
            "part": [row.part for row in found],
            "first_id": [row.first for row in found],
            "last_id": [row.last for row in found],
            "photos": [row.photos for row in found],
            "test": [str(row.test) for row in found],
            **{
                name: pa.array([getattr(row, name) for row in found], pa.float64(), from_pandas=True)
                for name in ("statistic", "p", "p_corrected")
            },
            "alarm": [row.alarm for row in found],
        }
        summary = folder.write_table(pa.table(columns, schema=schemas.DRIFT))
        alarms = [row for row in found if row.alarm]
        if (progress := current()) is not None:
            progress.alarmed(len(alarms))
        summary.metrics = _numbers(found)
        summary.extra = {"alarms": len(alarms), "photos": scores.rows}
        summary.remarks = _remarks(alarms, several=drift.part_images is not None)
        return summary


def _parts(scores: Any, size: int | None) -> Iterator[Part]:
    """The photos in the order of their ids, `size` at a time; all together for None."""
    import pyarrow as pa

    waiting: list[pa.Table] = []
    for batch in scores.batches(["image_id", "distance", "doubt", "label"]):
        waiting.append(batch)
        if size is None:
            continue
        rows = pa.concat_tables(waiting)
        whole = rows.num_rows // size * size
        for start in range(0, whole, size):
            yield _part(rows.slice(start, size))
        waiting = [rows.slice(whole)]
    rest = pa.concat_tables(waiting) if waiting else None
    if rest is not None and rest.num_rows:
        yield _part(rest)


def _part(rows: Any) -> Part:
    from fgvr.drift.parts import Part

    ids = rows["image_id"].to_numpy()
    counts = Counter({one["values"]: one["counts"] for one in rows["label"].drop_null().value_counts().to_pylist()})
    return Part(int(ids.min()), int(ids.max()), _floats(rows["distance"]), _floats(rows["doubt"]), counts)


def _floats(column: Any) -> Doubles:
    """Null as NaN."""
    values: Doubles = column.cast("float64").fill_null(float("nan")).to_numpy()
    return values


def _numbers(found: list[Judged]) -> dict[str, float]:
    """For MLflow: the alarms, and of each test the largest change and the smallest corrected p of any part."""
    import numpy as np

    numbers = {"parts": float(len({row.part for row in found})), "alarms": float(sum(row.alarm for row in found))}
    for test in dict.fromkeys(row.test for row in found):
        own = [row for row in found if row.test == test and not np.isnan(row.p)]
        numbers[f"alarms_{test}"] = float(sum(row.alarm for row in own))
        if own:
            numbers[f"change_{test}"] = max(row.statistic for row in own)
            numbers[f"p_{test}"] = min(row.p_corrected for row in own)
    return numbers


def _remarks(alarms: list[Judged], *, several: bool) -> tuple[str, ...]:
    """The alarms in words, the surest first."""
    if not alarms:
        return ()
    surest = sorted(alarms, key=lambda row: (row.p_corrected, row.part))
    lines = [
        f"{f'part {row.part} (photos {row.first:,} to {row.last:,}): ' if several else ''}{row.test.means} "
        f"(change {row.statistic:.3f}, p = {row.p_corrected:.2g})"
        for row in surest[:SHOWN]
    ]
    if len(surest) > SHOWN:
        lines.append(f"and {len(surest) - SHOWN:,} more alarms in the table drift")
    return tuple(f"drift: {line}" for line in lines)


class Novel(OfNewPhotos):
    """The photos that are least like any that was learned from, in clusters."""

    table = "novel"

    def consults(self, run: Run) -> Iterable[str]:
        """The photos' places, for the list."""
        return ("samples",)

    def reads(self, run: Run) -> Iterable[str]:
        """The scores, and the vectors."""
        return ("embeddings", "drift_scores", *self.own(run))

    def recipe(self, run: Run) -> dict[str, Any]:
        """How many, and the rules."""
        from fgvr.drift import novel
        from fgvr.selection import kmeans

        drift = run.config.infer.drift
        return {
            "false_alarms": drift.false_alarms,
            "most": drift.max_novel,
            "clusters": drift.clusters,
            "seed": drift.seed,
            "rules": [novel.RULES, kmeans.RULES],
            **self.stated(run),
        }

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Choose, and cluster in the whitened space."""
        import os

        import numpy as np
        import pyarrow as pa

        from fgvr import schemas
        from fgvr.drift.novel import grouped, novel_rows

        drift, scores = run.config.infer.drift, run.table("drift_scores")
        fit = np.concatenate([_floats(rows["fit"]) for rows in scores.batches(["fit"])])
        distance = np.concatenate([_floats(rows["distance"]) for rows in scores.batches(["distance"])])
        ids = np.concatenate([rows["image_id"].to_numpy() for rows in scores.batches(["image_id"])])
        # Beyond the farthest reference photo all fit equally badly: there the distance decides.
        order = novel_rows(fit, drift.false_alarms, len(fit))
        order = order[np.lexsort((-distance[order], fit[order]))][: drift.max_novel]
        places = np.sort(order)
        rank = np.empty(len(fit), np.int32)
        rank[order] = np.arange(1, len(order) + 1)
        threads = len(os.sched_getaffinity(0))
        vectors, there = vectors_of(run, ids[places])
        learned = self.reference(run).learned(threads)
        seen = vectors if learned.whitening is None else learned.whitening.apply(vectors)
        clusters = grouped(seen, drift.clusters, seed=drift.seed, threads=threads)
        cluster, similarity = np.full(len(places), -1, np.int32), np.zeros(len(places), np.float32)
        at = np.searchsorted(ids[places], there)
        cluster[at], similarity[at] = clusters.cluster, clusters.similarity
        columns = {
            "image_id": ids[places],
            "rank": rank[places],
            "fit": fit[places],
            "distance": distance[places],
            "label": scores.find(ids[places], ["label"])["label"],
            "cluster": cluster,
            "similarity": similarity,
        }
        rows = pa.table(columns, schema=schemas.NOVEL)
        summary = folder.write_table(rows)
        folder.write_bytes(PHOTOS_FILE, _listed(run, rows))
        expected = drift.false_alarms * int(np.isfinite(fit).sum())
        summary.metrics = {
            "photos": float(len(places)),
            "photos_expected_by_chance": float(expected),
            "clusters": float(cluster.max(initial=-1) + 1),
        }
        return summary

    def made(self, run: Run, table: Any) -> None:
        """Copy the list to a place that does not depend on the config."""
        run.keep(f"{self.table}/{PHOTOS_FILE}", storage.read_bytes(table.path(PHOTOS_FILE)))


def _listed(run: Run, rows: Any) -> bytes:
    """A CSV of the photos, the largest cluster first, and in it the photos nearest to its centre."""
    samples = run.table("samples").take(rows["image_id"].to_numpy(), ["uri", "split"]).to_pylist()
    listed = [{**place, **row} for place, row in zip(samples, rows.to_pylist(), strict=True)]
    listed.sort(key=lambda row: (row["cluster"] < 0, row["cluster"], -row["similarity"], row["image_id"]))
    columns = ("uri", "split", "cluster", "similarity", "rank", "fit", "distance", "label")
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows({**row, **{name: f"{row[name]:.6g}" for name in columns[3:7:2]}} for row in listed)
    return text.getvalue().encode()


def show(run: Run) -> None:
    """Print what has changed."""
    drift, novel = run.table("drift"), run.table("novel")
    photos = drift.extra["photos"]
    if not drift.extra["alarms"]:
        log.info("drift: no alarm; %s photos are as those of training, as far as the tests see", f"{photos:,}")
    chance = novel.rows and f"{100 * run.config.infer.drift.false_alarms:g}%"
    if novel.rows:
        log.info(
            "novel: %s of %s photos; %s would be listed if all were as in training. Ask about them next: "
            "label.images.only = %s",
            f"{novel.rows:,}",
            f"{photos:,}",
            chance,
            storage.join(run.folder, "novel"),
        )


if __name__ == "__main__":
    stage_main(__doc__, "drift", "novel", show=show)
