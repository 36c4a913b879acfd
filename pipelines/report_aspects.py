"""The report's content about aspects, gathered from the tables of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fgvr import storage
from fgvr.config.data import ImageLimits
from pipelines.registry import stage_of
from pipelines.run_tables import Run, per_run

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from fgvr.arrays import Ids
    from fgvr.evaluation.aspects import ClassSums
    from fgvr.report.aspects import AspectFacts, Overhead
    from fgvr.report.pictures import AspectCard, AspectPictures
    from fgvr.tables import Table

    Answers = npt.NDArray[np.float32]

JUDGED = 5_000
"""Number of images whose class is predicted from the answers alone."""
COMPARED = 1_000
"""Number among these whose answers are compared with the student's and that appear in the map."""
CARDS = 6
CARD_QUESTIONS = 8


@dataclass(frozen=True)
class AspectSample:
    """Training images with a class target and answers, and the samples of them that the report uses.

    Attributes:
        ids: int64 [N], ascending.
        classes: int64 [N], class targets.
        folds: int64 [N], which of two halves each image belongs to.
        judged: ascending row numbers of the larger sample, whose class is predicted from the answers.
        compared: ascending row numbers within `judged`, for which the student predicts aspects, too.
        held_out: bool per compared image, whether it was held out of the student's training.
    """

    ids: Ids
    classes: Ids
    folds: Ids
    judged: Ids
    compared: Ids
    held_out: npt.NDArray[np.bool_]

    @property
    def asked(self) -> Ids:
        """Ascending ids of the compared images."""
        return self.ids[self.judged[self.compared]]


def has_aspects(run: Run) -> bool:
    """Whether the student learned answers of the MLLM on images with a class; requests its table."""
    if "aspects" not in stage_of("makd").reads(run) or not run.table("makd").extra["questions"]:
        return False  # a student with other aspect targets (random, none)
    return bool(len(aspect_sample(run).ids))


@per_run
def aspect_sample(run: Run) -> AspectSample:
    """Draw the sample; empty where no image has both a class target and answers."""
    import pyarrow.compute as pc

    from fgvr.evaluation.aspects import halves

    rows = run.table("makd").read(["image_id", "label_id", "held_out", "aspects"])
    rows = rows.filter(pc.and_(rows["aspects"], pc.is_valid(rows["label_id"])))
    held = rows["held_out"].to_numpy()
    rng = np.random.default_rng(run.config.evaluate.seed)
    order = rng.permutation(len(held))
    # Held-out images first, up to half of the compared ones: the student cannot have memorised them.
    first = order[held[order].astype(bool)][: COMPARED // 2]
    order = np.concatenate([first, order[~np.isin(order, first)]])
    judged = np.sort(order[:JUDGED])
    compared = np.sort(order[:COMPARED])
    classes = rows["label_id"].to_numpy().astype(np.int64)
    return AspectSample(
        ids=rows["image_id"].to_numpy().astype(np.int64),
        classes=classes,
        folds=halves(classes),
        judged=judged,
        compared=np.searchsorted(judged, compared),
        held_out=held[compared].astype(bool),
    )


def aspect_report(run: Run, *, with_base: bool) -> tuple[AspectFacts, AspectPictures]:
    """Numbers and figures; `with_base`: whether the student without aspects was trained, too."""
    from fgvr.evaluation.aspects import compare_aspects, leave_one_out, project
    from fgvr.report.aspects import Names, aspect_facts
    from fgvr.report.pictures import AspectPictures, answer_pairs, choose_cards, class_dots

    config, images = run.config, aspect_sample(run)
    model = json.loads(storage.read_bytes(run.table("makd").path("model", "model.json")))
    names = Names(model["questions"], model["labels"], str(run.table("makd").extra["class_targets"]))
    sums, judged = _answers(run.table("aspects"), images, len(names.labels), len(names.questions))
    mllm = judged[images.compared]
    compared_ids = images.asked
    student = _student(run.table("eval_aspects"), compared_ids, len(names.questions))
    alone = leave_one_out(sums, images.folds[images.judged], images.classes[images.judged], judged)
    unseen = images.held_out if images.held_out.any() else np.ones(len(mllm), dtype=bool)
    agreement = compare_aspects(mllm[unseen], student[unseen])
    overhead = _overhead(run, with_base=with_base)
    facts = aspect_facts(names, sums, alone, agreement, overhead, held_out=bool(images.held_out.any()))
    pictures = AspectPictures()
    answered = ~np.isnan(student).all(axis=1)  # the student's image may have become unreadable
    classes = images.classes[images.judged[images.compared]]
    maps = [project(side[answered], config.evaluate.seed) for side in (mllm, student)]
    if maps[0] is not None and maps[1] is not None:
        dots = class_dots([names.labels[c] for c in classes[answered]], maps[0], maps[1])
        pictures = AspectPictures(int(answered.sum()), int((answered & images.held_out).sum()), dots)
    shown = np.flatnonzero(unseen & answered)
    shown = shown[choose_cards(classes[shown], CARDS if config.evaluate.report_images else 0, config.evaluate.seed)]
    cards = _cards(run.table("samples"), compared_ids[shown], config.ingest.limits)
    lines = facts.questions[:CARD_QUESTIONS]
    filled = [
        replace(card, class_name=names.labels[classes[row]], pairs=answer_pairs(lines, mllm[row], student[row]))
        for card, row in zip(cards, shown, strict=True)
    ]
    return facts, replace(pictures, cards=filled)


def _answers(aspects: Table, images: AspectSample, classes: int, questions: int) -> tuple[ClassSums, Answers]:
    """Sums over all images, and the answers [J, Q] of the judged ones, in one pass over the table, part by part."""
    from fgvr.evaluation.aspects import ClassSums

    sums = ClassSums(classes, questions)
    judged = np.full((len(images.judged), questions), np.nan, dtype=np.float32)
    for part in aspects.batches(["image_id", "p_yes", "error"]):
        ids, p_yes = _p_yes(part, questions)
        rows = np.searchsorted(images.ids, ids)
        known = images.ids[np.minimum(rows, len(images.ids) - 1)] == ids
        rows, p_yes = rows[known], p_yes[known]
        sums.add(images.folds[rows], images.classes[rows], p_yes)
        places = np.searchsorted(images.judged, rows)
        drawn = images.judged[np.minimum(places, len(images.judged) - 1)] == rows
        judged[places[drawn]] = p_yes[drawn]
    return sums, judged


def _student(predictions: Table, ids: Ids, questions: int) -> Answers:
    """The student's predictions [n, Q] for ascending ids; nan where one failed."""
    found, p_yes = _p_yes(predictions.read(["image_id", "p_yes", "error"]), questions)
    outputs = np.full((len(ids), questions), np.nan, dtype=np.float32)
    outputs[np.searchsorted(ids, found)] = p_yes
    return outputs


def _p_yes(rows: pa.Table, questions: int) -> tuple[Ids, Answers]:
    """Ids [n] and the first Q answers [n, Q] of the rows that have some."""
    import pyarrow.compute as pc

    good = rows.filter(pc.and_(pc.is_null(rows["error"]), pc.is_valid(rows["p_yes"])))
    flat = pc.list_flatten(good["p_yes"]).to_numpy().astype(np.float32)
    asked = flat.reshape(good.num_rows, -1) if good.num_rows else flat.reshape(0, questions)
    return good["image_id"].to_numpy().astype(np.int64), asked[:, :questions]


def _cards(samples: Table, ids: Ids, limits: ImageLimits) -> list[AspectCard]:
    """Image cards without answers, in the order of `ids`."""
    from fgvr.report.cards import file_name
    from fgvr.report.pictures import AspectCard, thumbnail

    rows = samples.take(ids, ["uri"])["uri"].to_pylist()
    return [AspectCard(file_name(uri), *thumbnail(uri, limits), class_name="", pairs=[]) for uri in rows]


def _overhead(run: Run, *, with_base: bool) -> Overhead:
    from fgvr.models.student import build_student, load_student
    from fgvr.report.aspects import Overhead

    spec, student = load_student(storage.fetch_folder(run.table("makd").path("model")))
    plain = build_student(replace(spec, questions=()))
    answers = (run.table("aspects").rows - run.table("aspects").failed) * run.table("questions").rows
    return Overhead(
        parameters=sum(weights.numel() for weights in student.parameters()),
        parameters_without=sum(weights.numel() for weights in plain.parameters()),
        images_per_second=_rate(run.table("makd")),
        images_per_second_without=_rate(run.table("base")) if with_base else None,
        seconds_per_answer=run.table("aspects").seconds / answers if answers else None,
    )


def _rate(trained: Table) -> float | None:
    """Images per second of the fastest epoch, which other load disturbed least; None where none is known."""
    from fgvr.training.checkpoint import HISTORY_FILE

    epochs = json.loads(storage.read_bytes(trained.path(HISTORY_FILE)))
    rates = [float(epoch["images_per_second"]) for epoch in epochs if "images_per_second" in epoch]
    return max(rates, default=None)
