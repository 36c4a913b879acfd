"""calibration: from which score on a precision can be promised. In: samples, predictions. Out: calibration.

    python pipelines/review.py runs/mine                         # draw an audit, decide about its photos
    python pipelines/calibration.py --run.name mine --infer.target_precision 0.95

One row per photo whose right name is known from outside (`infer.calibrate_on`), with the student's name and whether it
is right. The thresholds, each with all its tests, are in the table's metadata; see docs/calibration.md. Photos that the
student learned from do not count: of those it knows what it was told, not what they show.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fgvr.config import Config, ConfigError
from pipelines.command import stage_main
from pipelines.kinds import ASKED, kinds_of, stated_kinds
from pipelines.reviewed import located
from pipelines.run_tables import Run, per_run
from pipelines.stage import Phase, Stage
from pipelines.student_images import learns_names

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.calibration.cascade import Scores, Thresholds
    from fgvr.calibration.checked import Truth
    from fgvr.calibration.promise import Flags
    from fgvr.hierarchy.tree import Tree

log = logging.getLogger(__name__)

COLUMNS = ["image_id", "label", "score", "top_labels", "top_scores"]


@dataclass(frozen=True)
class Student:
    """What the student says of all photos.

    Attributes:
        ids: int64 [n], ascending.
        scores: how sure it is of each; NaN where a photo cannot be read.
        kinds: the kind above its name, nodes of `tree`, int64 [n]; `NONE` without one.
        learned: photos that it learned from, bool [n].
        tree: of its names; None without kinds.
    """

    ids: Ids
    scores: Scores
    kinds: Ids
    learned: Flags
    tree: Tree | None

    def pool(self) -> Scores:
        """The photos to be decided: those that it could read and did not learn from."""
        import numpy as np

        return self.scores.of(~self.learned & np.isfinite(self.scores.name))


@dataclass(frozen=True)
class Known:
    """Photos whose right name is known.

    Attributes:
        truths: by URI for an audit, by image id for the data's classes.
        called: renames and merges of the review.
    """

    truths: Mapping[Any, Truth]
    called: Mapping[str, str]


class Calibration(Stage):
    """The photos whose right names are known, and the thresholds that they show."""

    table = "calibration"
    phase: ClassVar[Phase | None] = None

    def wanted(self, config: Config) -> bool:
        """Where a precision is to be promised."""
        return config.infer.target_precision is not None

    def check(self, config: Config) -> None:
        """Raise ConfigError for a promise that nothing could be said about."""
        check_promise(config)

    def consults(self, run: Run) -> Iterable[str]:
        """What the tree of names is made of."""
        return tree_from(run.config)

    def reads(self, run: Run) -> Iterable[str]:
        """The predictions, and what the model learned from."""
        return ("samples", "predictions", *taught_by(run))

    def recipe(self, run: Run) -> dict[str, Any]:
        """The promise, the tree, and what is known of the photos."""
        from fgvr.calibration import cascade

        infer = run.config.infer
        return {
            "rules": cascade.RULES,
            "target": infer.target_precision,
            "confidence": infer.confidence,
            "asking": infer.second_look_budget > 0,
            "known": stated_known(run),
            **stated_kinds(run),
        }

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Judge the student on these photos, and find the thresholds."""
        import numpy as np

        from fgvr.calibration.cascade import Checked, find_thresholds
        from fgvr.heads.calibration import calibration_error

        infer = run.config.infer
        rows, scores, remarks = calibration_rows(run)
        right, kind_right = (rows[name].to_numpy(zero_copy_only=False) for name in ("right", "kind_right"))
        found = find_thresholds(
            Checked(scores, right, kind_right),
            student_of(run).pool(),
            target=infer.target_precision or 0.0,
            error=1 - infer.confidence,
            kinds=kinds_of(run) is not None,
            asking=infer.second_look_budget > 0,
        )
        summary = folder.write_table(rows)
        summary.extra = facts_of(found) | {"calibrated_on": infer.calibrate_on}
        summary.metrics = {
            "checked": float(len(right)),
            "right": float(right.sum()),
            "ece": calibration_error(scores.name.astype(np.float32), right),
        }
        said = [f"names: {found.name.sentence()}"]
        if found.kind is not None:
            said.append(f"kinds above the names: {found.kind.sentence()}")
        summary.remarks = (*remarks, *said)
        return summary


def check_promise(config: Config) -> None:
    """Raise ConfigError where no precision is promised, or other rules of deciding stand against it."""
    infer = config.infer
    if infer.target_precision is None:
        raise ConfigError("infer.target_precision = null: nothing is promised; set it, e.g. to 0.95")
    if infer.costs is not None or config.hierarchy.decide != "most_probable":
        other = "infer.costs" if infer.costs is not None else f"hierarchy.decide = {config.hierarchy.decide}"
        raise ConfigError(
            f"infer.target_precision: {other} decides about names, too; leave one of the two out. With a tree "
            "(hierarchy.source) a promise goes up to the kinds above names by itself"
        )
    split = config.evaluate.split
    if infer.calibrate_on == "truth" and infer.split not in {None, split}:
        raise ConfigError(
            f"infer.calibrate_on = truth: infer.split = {infer.split} leaves out the photos of evaluate.split = "
            f"{split}, whose true classes would be compared; set infer.split to null, or calibrate on an audit"
        )


def tree_from(config: Config) -> tuple[str, ...]:
    """The table from which the tree of names is made; none where it comes from a file. Recipes hold its content."""
    return (ASKED,) if config.hierarchy.source == "mllm" else ()


def taught_by(run: Run) -> tuple[str, ...]:
    """Tables that name the photos which the model learned from."""
    config = run.config
    if config.infer.model is not None:
        return ()
    named = config.infer.trained in {"makd", "base"} and learns_names(config, run.photos)
    return (config.infer.trained, *(("labels",) if named else ()))


def learned_ids(run: Run) -> Ids:
    """Ids of the photos that the model learned from, int64 ascending; none are known of a model from elsewhere."""
    import numpy as np

    found = [np.zeros(0, np.int64)]
    for name in taught_by(run):
        rows = run.table(name).read(["image_id", "label_id"])
        found.append(rows.filter(rows["label_id"].is_valid())["image_id"].to_numpy())
    return np.unique(np.concatenate(found))


@per_run
def known_of(run: Run) -> Known:
    """What is known of photos from outside."""
    if run.config.infer.calibrate_on == "truth":
        from fgvr.calibration.checked import Truth
        from fgvr.sources.sampling import split_ids

        samples = run.table("samples")
        ids = split_ids(samples, [run.config.evaluate.split])
        names = samples.take(ids, ["class_name"])["class_name"].to_pylist()
        return Known({image: Truth(name) for image, name in zip(ids.tolist(), names, strict=True) if name}, {})
    from fgvr.calibration.checked import audited
    from fgvr.review.audit_file import read_sample
    from fgvr.review.log import DecisionLog, effective_decisions

    try:
        sample = read_sample(DecisionLog(run.folder).place)
    except FileNotFoundError:
        return Known({}, {})
    decisions = effective_decisions(run.folder)
    return Known(audited(sample, decisions), decisions.aliases)


def stated_known(run: Run) -> dict[str, Any]:
    """What is known, as fingerprints hold it: true classes are in the samples, decisions count by their content."""
    if run.config.infer.calibrate_on == "truth":
        return {"truth": run.config.evaluate.split}
    import hashlib
    import json

    known = known_of(run)
    said = sorted((uri, each.name or "", each.decided) for uri, each in known.truths.items())
    text = json.dumps([said, sorted(known.called.items())])
    return {"audit": hashlib.sha256(text.encode()).hexdigest()}


@per_run
def student_of(run: Run) -> Student:
    """What the student says of all photos; three numbers per photo are in memory."""
    import numpy as np

    from fgvr.arrays import NONE
    from fgvr.calibration.cascade import Scores
    from fgvr.calibration.kinds import kinds_above

    predictions, source = run.table("predictions"), kinds_of(run)
    tree = None
    if source is not None:
        names: set[str] = set()
        for rows in predictions.batches(["top_labels"]):
            names.update(rows["top_labels"].combine_chunks().flatten().unique().to_pylist())
        tree = source.tree(sorted(names))
    ids, scores, kinds, sure = [], [], [], []
    for rows in predictions.batches(COLUMNS):
        ids.append(rows["image_id"].to_numpy())
        scores.append(rows["score"].to_numpy().astype(np.float64))
        count = rows.num_rows
        nodes, mass = np.full(count, NONE, np.int64), np.full(count, np.nan)
        if tree is not None:
            nodes, mass = kinds_above(tree, rows["label"], rows["top_labels"], rows["top_scores"])
        kinds.append(nodes)
        sure.append(mass)
    all_ids = np.concatenate([*ids, np.zeros(0, np.int64)])
    none = np.zeros(0)
    made = Scores(np.concatenate([*scores, none]), np.concatenate([*sure, none]))
    nodes = np.concatenate([*kinds, np.zeros(0, np.int64)])
    return Student(all_ids, made, nodes, np.isin(all_ids, learned_ids(run)), tree)


def calibration_rows(run: Run) -> tuple[pa.Table, Scores, tuple[str, ...]]:
    """Rows of the calibration schema, how sure the student is of each, and what a reader must know."""
    import numpy as np
    import pyarrow as pa

    from fgvr import schemas
    from fgvr.arrays import NONE
    from fgvr.calibration.checked import matches
    from fgvr.calibration.kinds import is_below

    student, known = student_of(run), known_of(run)
    truths = _by_image(run, known)
    places = np.flatnonzero(np.isin(student.ids, np.array(sorted(truths), np.int64)))
    learned = int(student.learned[places].sum())
    places = places[~student.learned[places] & np.isfinite(student.scores.name[places])]
    ids, scores = student.ids[places], student.scores.of(places)
    labels = run.table("predictions").find(ids, ["image_id", "label"])["label"].to_pylist()
    mine = [truths[image] for image in ids.tolist()]
    right = matches(labels, mine, known.called)
    kinds: list[str | None] = [None] * len(ids)
    kind_right = np.zeros(len(ids), bool)
    source = kinds_of(run)
    if student.tree is not None and source is not None:
        nodes, tree = student.kinds[places], student.tree
        kinds = [None if node == NONE else tree.names[node] for node in nodes.tolist()]
        # Truths that the student never says are below kinds, too: they need a tree that has them.
        shown = [None if each.name is None else known.called.get(each.name, each.name) for each in mine]
        whole = source.tree(sorted({*(name for name in tree.names if name), *(name for name in shown if name)}))
        kind_right = is_below(whole, shown, whole.nodes(kinds))
    rows = pa.table(
        [
            *(ids, labels, scores.name, [each.name for each in mine], right),
            *(kinds, [None if np.isnan(mass) else float(mass) for mass in scores.kind], kind_right),
        ],
        schema=schemas.CALIBRATION,
    )
    return rows, scores, _remarks(run, known, learned, len(truths), len(ids))


def _by_image(run: Run, known: Known) -> dict[int, Truth]:
    """What is known, by image id. An audit names photos by URI, which stays when photos are listed anew."""
    if run.config.infer.calibrate_on == "truth":
        return dict(known.truths)
    return {image: known.truths[uri] for uri, image in located(run, known.truths).items()}


def _remarks(run: Run, known: Known, learned: int, found: int, used: int) -> tuple[str, ...]:
    """What a reader of the thresholds must know of the photos behind them."""
    infer, said = run.config.infer, []
    if infer.calibrate_on == "audit" and not known.truths:
        said.append(
            "no audit was drawn: open the run with pipelines/review.py, draw one and decide about its photos, or "
            "set infer.calibrate_on to truth"
        )
    waiting = sum(not each.decided for each in known.truths.values())
    if waiting:
        said.append(
            f"{waiting:,} of the audit's {len(known.truths):,} photos are not decided, and count as wrong until then"
        )
    if learned:
        said.append(f"{learned:,} checked photos do not count, since the model learned from them")
    if found - learned - used > 0:
        said.append(f"{found - learned - used:,} checked photos have no prediction")
    if infer.model is not None:
        said.append(
            "infer.model is from elsewhere: nobody here knows which photos it learned from; checked ones must not be "
            "among them"
        )
    return tuple(said)


def facts_of(found: Thresholds) -> dict[str, Any]:
    """Thresholds for the metadata of a table."""
    return {
        "name": found.name.as_json(),
        "kind": None if found.kind is None else found.kind.as_json(),
        "asking": found.asking,
    }


def thresholds_in(extra: Mapping[str, Any]) -> Thresholds:
    """What `facts_of` wrote."""
    from fgvr.calibration.cascade import Thresholds
    from fgvr.calibration.promise import Promise

    kind = extra["kind"]
    return Thresholds(Promise.of_json(extra["name"]), None if kind is None else Promise.of_json(kind), extra["asking"])


if __name__ == "__main__":
    stage_main(__doc__, "calibration")
