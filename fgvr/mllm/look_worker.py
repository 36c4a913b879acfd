"""looks: labels and aspects of an image in one pass; one row of the looks table per image.

The image is read and decoded only once. The backend first answers in words about a few images and then scores
their aspects, so that an engine still has the pixels and the cached prefix of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgvr import schemas, tables
from fgvr.images.pictures import PictureReader
from fgvr.mllm.backend import Answer, AspectAnswer, MllmBackend
from fgvr.mllm.label_worker import LabelSettings, LabelWorker, answer_rows
from fgvr.mllm.scoring_workers import AspectSettings, AspectWorker, aspect_rows

IMAGES_TOGETHER = 32
"""How many decoded images are kept from the words to the aspects."""


@dataclass(frozen=True)
class LookSettings:
    """What the workers of looks need; picklable.

    Attributes:
        label: settings for the words; their model, limits and threads also serve the aspects.
        aspects: settings for the aspects.
        label_ids: int64, ascending: images for which words are wanted.
        aspect_ids: int64, ascending: images for which aspects are wanted.
    """

    label: LabelSettings
    aspects: AspectSettings
    label_ids: npt.NDArray[np.int64]
    aspect_ids: npt.NDArray[np.int64]


class LookWorker:
    """The PartWorker of looks; see fgvr.part_worker.PartWorker."""

    def __init__(self, settings: LookSettings, backend: MllmBackend) -> None:
        """Ask a backend that is running already."""
        self.settings = settings
        self._labels = LabelWorker(settings.label, backend)
        self._aspects = AspectWorker(settings.aspects, backend)

    @property
    def remarks(self) -> tuple[str, ...]:
        """See fgvr.part_worker.remarks_of."""
        return self._labels.remarks

    def process(self, rows: pa.Table) -> pa.Table:
        """Words and aspects for rows with `image_id` and `uri`: one row of `looks(Q)` each, in order."""
        ids = rows["image_id"].to_numpy()
        named, asked = among(ids, self.settings.label_ids), among(ids, self.settings.aspect_ids)
        reader = PictureReader(rows["uri"].to_pylist(), self.settings.label.limits, threads=self.settings.label.threads)
        words: dict[int, list[Answer]] = {}
        scores: dict[int, AspectAnswer] = {}
        pictures = iter(reader)
        while some := list(islice(pictures, IMAGES_TOGETHER)):
            of_label = [(place, picture) for place, picture in some if named[place]]
            of_aspects = [(place, picture) for place, picture in some if asked[place]]
            answers = self._labels.answers((int(ids[place]), picture) for place, picture in of_label)
            words |= {place: answer for (place, _), answer in zip(of_label, answers, strict=True)}
            given = self._aspects.answers(picture for _, picture in of_aspects)
            scores |= {place: answer for (place, _), answer in zip(of_aspects, given, strict=True)}
        words |= {place: [Answer(None, failure=failure)] for place, failure in reader.failures.items()}
        scores |= {place: AspectAnswer(failure=failure) for place, failure in reader.failures.items()}
        unasked, questions = AspectAnswer(), len(self.settings.aspects.task.questions)
        answer_part = answer_rows(ids.tolist(), [words.get(place, [Answer(None)]) for place in range(len(ids))])
        aspect_part = aspect_rows(ids.tolist(), [scores.get(place, unasked) for place in range(len(ids))], questions)
        return look_rows(answer_part, aspect_part, named, asked, questions)


def among(ids: npt.NDArray[np.int64], ascending: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of `ids` are among N ascending ids, bool; `np.isin` would sort all N of them again for each part."""
    if not len(ascending):
        return np.zeros(len(ids), dtype=np.bool_)
    places = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    return np.asarray(ascending[places] == ids)


def look_rows(
    answers: pa.Table, aspects: pa.Table, named: npt.NDArray[np.bool_], asked: npt.NDArray[np.bool_], questions: int
) -> pa.Table:
    """Rows of the looks table; a part that was not requested (`named`, `asked`: bool, one per row) is null."""
    schema = schemas.looks(questions)
    answer = _part(answers, named, schema.field("answer").type)
    aspect = _part(aspects, asked, schema.field("aspects").type)
    error = pc.coalesce(pc.struct_field(answer, "error"), pc.struct_field(aspect, "error"))
    return pa.table(
        {"image_id": answers["image_id"], "answer": answer, "aspects": aspect, "error": error}, schema=schema
    )


def _part(rows: pa.Table, wanted: npt.NDArray[np.bool_], kind: pa.StructType) -> pa.Array:
    values: list[Any] = [
        row if known else None for row, known in zip(rows.drop_columns("image_id").to_pylist(), wanted, strict=True)
    ]
    return pa.array(values, type=kind)


def part_rows(looks: pa.Table, column: str, schema: pa.Schema) -> pa.Table:
    """The column `answer` or `aspects` of looks rows, as rows of that table's own schema."""
    part = looks[column].combine_chunks()
    if part.null_count:
        raise ValueError(f"{part.null_count} of {len(part)} images were not asked for their {column}")
    fields = {field.name: pc.struct_field(part, field.name) for field in part.type}
    return tables.conform(pa.table({"image_id": looks["image_id"], **fields}), schema)
