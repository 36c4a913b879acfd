"""decided: who names each photo under a promised precision. In: predictions, calibration, second_looks. Out: decided.

    python pipelines/cascade.py --run.name mine --infer.target_precision 0.95

One row per prediction. The student decides where its score keeps the promise; else, with `hierarchy.source`, the kind
above its name; else, with `infer.second_look_budget`, the MLLM where its choice does. What is left goes to the queue
`undecided` of the review page, at most `infer.queue_photos`, the surest first; the rest gets no name. Every row says by
whom it is decided, why, and at what cost. Nothing is inferred again: new checked photos change thresholds, and this
table follows in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fgvr.config import Config
from pipelines.calibration import check_promise, known_of, student_of, taught_by, thresholds_in, tree_from
from pipelines.command import stage_main
from pipelines.kinds import stated_kinds
from pipelines.run_tables import Run
from pipelines.stage import Phase, Stage

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.calibration.cascade import Choice, Outcome
    from fgvr.calibration.promise import Promise
    from pipelines.calibration import Student


@dataclass(frozen=True)
class Looked:
    """What the MLLM said of m photos.

    Attributes:
        choice: which photos, and how sure it is.
        names: what it chose, [m]; None where it did not answer.
        tokens: what that took, [m]; None where the server does not say.
        promised: what is promised of its choices.
        label_ids: index in the model's label list, by name.
    """

    choice: Choice
    names: Sequence[str | None]
    tokens: Sequence[int | None]
    promised: Promise
    label_ids: dict[str, int]


class Decided(Stage):
    """Who decides about each photo, and what is said of it."""

    table = "decided"
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
        """The predictions and their thresholds, the MLLM's choices, and which photos were learned from."""
        asking = run.config.infer.second_look_budget > 0
        return ("samples", "predictions", "calibration", *(("second_looks",) if asking else ()), *taught_by(run))

    def recipe(self, run: Run) -> dict[str, Any]:
        """The rules, the tree, and how many photos people are to look at."""
        from fgvr.calibration import cascade

        return {"rules": cascade.RULES, "queue": run.config.infer.queue_photos, **stated_kinds(run)}

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Decide about all photos at once, and write their rows a part at a time."""
        from cluster.stage import StageSummary
        from fgvr.calibration.cascade import decide

        student, thresholds = student_of(run), thresholds_in(run.table("calibration").extra)
        looked = looks_of(run, student) if run.config.infer.second_look_budget else None
        outcome = decide(
            thresholds,
            student.scores,
            learned=student.learned,
            queue=run.config.infer.queue_photos,
            choice=None if looked is None else looked.choice,
            chosen=None if looked is None else looked.promised,
        )
        rows = parts = 0
        for batch in run.table("predictions").batches(["image_id", "label", "label_id", "score"]):
            places = range(rows, rows + batch.num_rows)
            folder.write_part(parts, decided_rows(batch, student, outcome, places, looked))
            parts, rows = parts + 1, places.stop
        counts = outcome.counts()
        summary = StageSummary(rows, parts=parts, rows_per_part=run.table("predictions").rows_per_part)
        summary.extra = {"decided_by": counts, "choice": None if looked is None else looked.promised.as_json()}
        summary.metrics = {f"by_{who}": float(count) for who, count in counts.items()}
        if looked is not None:
            summary.remarks = (f"choices of the MLLM: {looked.promised.sentence()}",)
        return summary


def looks_of(run: Run, student: Student) -> Looked | None:
    """What the MLLM chose, and what the checked photos among those show of it; None where no photo was left to ask."""
    import numpy as np
    from scipy.special import softmax

    from fgvr.calibration.cascade import Choice
    from fgvr.calibration.checked import Truth, matches
    from fgvr.calibration.promise import promise

    calibration, looks = run.table("calibration"), run.table("second_looks")
    if not looks.rows:
        return None
    rows = looks.read()
    names, ids = rows["chosen"].to_pylist(), rows["image_id"].to_numpy()
    sure = np.array([np.nan if each is None else softmax(each).max() for each in rows["scores"].to_pylist()])
    known = calibration.read(["image_id", "truth"])
    truths = dict(zip(known["image_id"].to_pylist(), known["truth"].to_pylist(), strict=True))
    checked = np.flatnonzero(np.isin(ids, known["image_id"].to_numpy()))
    mine = [Truth(truths[image]) for image in ids[checked].tolist()]
    right = matches([names[place] or "" for place in checked], mine, known_of(run).called)
    thresholds = thresholds_in(calibration.extra)
    promised = promise(
        sure[checked], right, sure, target=thresholds.name.target, error=thresholds.asking or thresholds.name.error
    )
    places: Ids = np.searchsorted(student.ids, ids)
    return Looked(Choice(places, sure), names, rows["prompt_tokens"].to_pylist(), promised, _label_ids(run))


def _label_ids(run: Run) -> dict[str, int]:
    found: dict[str, int] = {}
    for rows in run.table("predictions").batches(["label", "label_id"]):
        pairs = rows.group_by(["label", "label_id"]).aggregate([]).to_pylist()
        found |= {row["label"]: row["label_id"] for row in pairs if row["label_id"] is not None}
    return found


def decided_rows(
    predictions: pa.Table, student: Student, outcome: Outcome, places: range, looked: Looked | None = None
) -> pa.Table:
    """Rows of the decided schema for some predictions, which stand at `places` among all."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from fgvr import schemas
    from fgvr.calibration.cascade import BY, WHY, By

    part, count = slice(places.start, places.stop), len(places)
    by = outcome.by[part]
    named, kind = (pa.array(by == BY.index(who)) for who in (By.STUDENT, By.TREE))
    nodes, tree = student.kinds[part], student.tree
    words, levels = ([], []) if tree is None else (tree.names, [tree.level_of(node) for node in range(len(tree.names))])
    label, score = predictions["label"].combine_chunks(), predictions["score"].combine_chunks()
    mass = pa.array(student.scores.kind[part].astype(np.float32))
    nothing = pa.nulls(count, pa.string())
    columns = {
        "image_id": predictions["image_id"].combine_chunks(),
        "label": pc.if_else(named, label, pc.if_else(kind, _coded(words, nodes), nothing)),
        "label_id": pc.if_else(named, predictions["label_id"].combine_chunks(), pa.nulls(count, pa.int32())),
        "level": pc.if_else(kind, _coded(levels, nodes), nothing),
        "score": pc.if_else(named, score, pc.if_else(kind, mass, pa.nulls(count, pa.float32()))),
        "decided_by": _coded([str(each) for each in BY], by),
        "why": _coded([str(each) for each in WHY], outcome.why[part]),
        "student_label": label,
        "student_score": score,
        "tokens": pa.array(np.zeros(count, np.int32)),
    }
    if looked is not None:
        columns |= _with_looks(columns, looked, by == BY.index(By.MLLM), places)
    return pa.table(columns, schema=schemas.DECIDED)


def _with_looks(
    columns: dict[str, pa.Array], looked: Looked, chosen: npt.NDArray[Any], places: range
) -> dict[str, pa.Array]:
    """Columns with what the MLLM chose and what it cost; only photos that were asked about are touched."""
    import pyarrow as pa

    changed = {name: columns[name].to_pylist() for name in ("label", "label_id", "score", "tokens")}
    for number, place in enumerate(looked.choice.rows.tolist()):
        if place not in places:
            continue
        at = place - places.start
        changed["tokens"][at] = looked.tokens[number]
        if chosen[at]:
            name = looked.names[number] or ""
            changed["label"][at], changed["label_id"][at] = name, looked.label_ids.get(name)
            changed["score"][at] = float(looked.choice.scores[number])
    return {name: pa.array(values, columns[name].type) for name, values in changed.items()}


def _coded(words: Iterable[str], places: npt.NDArray[Any]) -> pa.Array:
    """The word at each place; null for a negative one."""
    import numpy as np
    import pyarrow as pa

    return pa.array(list(words), pa.string()).take(pa.array(np.asarray(places, np.int64), mask=places < 0))


if __name__ == "__main__":
    stage_main(__doc__, "decided")
