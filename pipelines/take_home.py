"""What a user takes home from a run: files of predictions beside the report, a recommended model, the next commands."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fgvr import storage
from fgvr.errors import UserError
from fgvr.redact import masked
from pipelines.reviewed import AUDITED
from pipelines.run_tables import NotThere, Run
from pipelines.train_stage import MODEL_FOLDER

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fgvr.arrays import Ids
    from fgvr.config.run import Method
    from fgvr.report.recommendation import Recommendation
    from fgvr.report.results import Results
    from fgvr.tables import Table

log = logging.getLogger(__name__)

FOLDER = "report"


def write_predictions(run: Run, predictions: Table) -> None:
    """Write predictions and names as files beside the report, unless they are there."""
    from cluster import lease
    from fgvr.report import take_home

    folder = storage.join(run.folder, FOLDER)
    # The photos' URIs come from the samples, which a copied run may number otherwise.
    samples = run.table("samples")
    if take_home.is_written(folder, predictions.version, predictions.rows):
        return
    lease.check(run.folder)
    found = take_home.write(folder, predictions, samples)
    without = "" if take_home.CSV in found.files else f" (no CSV above {take_home.MOST_CSV_ROWS:,} photos)"
    log.info("predictions: %s in %s%s", ", ".join(found.files), masked(folder), without)


def files_line(folder: str, predictions: Table | None) -> str:
    """A line for the console on the files of predictions in the report's folder."""
    from fgvr.report import take_home

    if predictions is None:
        said = f"none yet with this config{' (the files there are of an earlier one)' if _old_files(folder) else ''}"
        return f"predictions: {said}: python pipelines/infer.py\n"
    names = take_home.Tally(rows=predictions.rows).files
    files = ", ".join(storage.join(masked(folder), name) for name in names)
    return f"predictions: {predictions.rows:,} photos: {files}\n"


def _old_files(folder: str) -> bool:
    from fgvr.report.take_home import PARQUET

    return storage.exists(storage.join(folder, PARQUET))


def finished_predictions(run: Run) -> Table | None:
    """The predictions table of this config; None where it is not finished, or where the config cannot make one."""
    return _finished(run, "predictions")


def _finished(run: Run, name: str) -> Table | None:
    try:
        return run.looking().table(name)
    except (NotThere, UserError):  # a report of some methods needs no questions, say; predictions by a student do
        return None


def seen_by(run: Run, methods: Sequence[Method], ids: Ids) -> dict[str, npt.NDArray[np.bool_]]:
    """Method → whether it learned from each of these images, bool [N]; nothing for methods that learn from none."""
    import numpy as np

    labelled = run.table("labels").read(["image_id"])["image_id"].to_numpy()
    of_labels = np.isin(ids, labelled)
    seen = {}
    for method in methods:
        if method in {"near", "label_prototypes", "heads"}:
            seen[str(method)] = of_labels
        elif method in {"base", "makd"}:
            own = np.zeros(len(ids), bool)
            for rows in run.table(method).batches(["image_id"]):
                own |= np.isin(ids, rows["image_id"].to_numpy())
            # Students also learn from whoever named their images, and that one learned from the labels.
            taught = run.table(method).extra.get("class_targets", "true") != "true"
            seen[str(method)] = own | of_labels if taught else own
    return seen


def human_labels(run: Run, methods: Sequence[Method]) -> tuple[str, ...]:
    """Methods that learned from true classes, from images drawn by true class, or from what people checked."""
    config = run.config.label
    of_labels = config.images.per_class is not None or config.checked is not None or _reviewed(run)
    found = []
    for method in methods:
        students = method in {"base", "makd"}
        true = students and run.table(method).extra.get("class_targets", "true") == "true"
        if true or (of_labels and (students or method in {"near", "label_prototypes", "heads"})):
            found.append(str(method))
    return tuple(found)


def _reviewed(run: Run) -> bool:
    from pipelines.reviewed import reviewed

    return reviewed(run).digest is not None


def recommended(
    results: Results,
    names: Mapping[str, Sequence[str]],
    true: Sequence[str | None],
    seen: Mapping[str, npt.NDArray[np.bool_]],
) -> Recommendation:
    """The model to take home, by the rule of `fgvr.report.recommendation`."""
    from fgvr.report.recommendation import known_costs, recommend
    from fgvr.report.results import FEWEST_TIMED

    costs = {} if results.costs is None else known_costs(results.costs.methods, FEWEST_TIMED)
    return recommend(names, true, seen, costs, audited=results.evaluation.split == AUDITED)


def next_steps(run: Run, chosen: Recommendation) -> tuple[tuple[str, str], ...]:
    """The next three things to do, or fewer where they make no sense: (why, command line)."""
    config, place = run.config, masked(run.folder)
    settings = ["--config", storage.join(place, "config.yaml")]
    steps = [("Look at photos and names, correct them, and audit how many are right", ["review.py", place])]
    own = config.infer.model is None
    if chosen.method and own and chosen.method != config.infer.trained:
        what = ["infer.py", *settings, "--infer.trained", chosen.method]
        steps.append((f"Classify all photos with the recommended model, {chosen.method}", what))
    more = _more_labels(run)
    if more is not None:
        why = f"See what {more:,} named photos would cost, before anything is asked (without --plan: do it)"
        steps.append((why, ["full.py", *settings, "--label.images.max_images", str(more), "--plan"]))
    model = chosen.method or config.infer.trained
    found = _finished(run, model) if own else None
    if found is not None:
        source = ["--ingest.source.kind", "folder", "--ingest.source.path", "PHOTOS"]
        folder = ["--infer.model", masked(found.path(MODEL_FOLDER))]
        what = ["infer.py", *folder, "--run.name", f"{config.run.name}-other", *source]
        steps.append((f"Classify other photos with {model}: put their folder in place of PHOTOS", what))
    return tuple((why, f"python {shlex.join([f'pipelines/{line[0]}', *line[1:]])}") for why, line in steps[:3])


def _more_labels(run: Run) -> int | None:
    """Twice the number of named photos; None where all are named, or a number per class decides."""
    images, named = run.config.label.images, run.table("labels").rows
    there = run.photos.total
    if images.per_class is not None or named >= there:
        return None
    return min(2 * named, there)
