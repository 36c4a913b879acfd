"""label: the model's own words about each image, once or several times; one row of the answers table per image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from fgvr import schemas
from fgvr.config.data import ImageLimits
from fgvr.config.models import Mllm
from fgvr.images.pictures import Picture, PictureReader
from fgvr.mllm.backend import SEEDS, Answer, ImageRequest, Labeler, Sampling
from fgvr.mllm.prompts import image_conversation
from fgvr.part_worker import remarks_of
from fgvr.schemas import Failure, Reason


@dataclass(frozen=True)
class LabelSettings:
    """What the workers of label need; picklable.

    Attributes:
        mllm: the model.
        prompt: the prompt that accompanies the image.
        sampling: how answers are sampled; every answer gets its own seed, derived from this one.
        limits: limits on reading an image.
        samples: number of answers about each image.
        threads: threads that read images.
    """

    mllm: Mllm
    prompt: str
    sampling: Sampling
    limits: ImageLimits
    samples: int = 1
    threads: int = 4


class LabelWorker:
    """The PartWorker of label; see fgvr.part_worker.PartWorker."""

    def __init__(self, settings: LabelSettings, backend: Labeler) -> None:
        """Ask a backend that is running already."""
        self.settings, self.backend = settings, backend

    @property
    def remarks(self) -> tuple[str, ...]:
        """See fgvr.part_worker.remarks_of."""
        return remarks_of(self.backend)

    def process(self, rows: pa.Table) -> pa.Table:
        """Answers for rows with `image_id` and `uri`: one row of ANSWERS each, in order."""
        ids = rows["image_id"].to_pylist()
        reader = PictureReader(rows["uri"].to_pylist(), self.settings.limits, threads=self.settings.threads)
        groups = self.answers((ids[place], picture) for place, picture in reader)
        return answer_rows(ids, reader.in_order(groups, lambda failure: [Answer(None, failure=failure)]))

    def answers(self, pictures: Iterable[tuple[int, Picture]]) -> list[list[Answer]]:
        """The answers about each of some images, given as (image_id, picture), in order."""
        # The answers about an image are requested one after the other with the same Picture: it is decoded once,
        # and the engine computes it once, since its caches know it by its content and the prompt by its prefix.
        given, size = self.backend.label(self._requests(pictures)), self.settings.samples
        return [given[first : first + size] for first in range(0, len(given), size)]

    def _requests(self, pictures: Iterable[tuple[int, Picture]]) -> Iterator[ImageRequest]:
        conversation = image_conversation(self.settings.prompt)
        sampling = self.settings.sampling
        for image_id, picture in pictures:
            for number in range(self.settings.samples):
                own = replace(sampling, seed=answer_seed(sampling.seed or 0, image_id, number))
                yield ImageRequest(picture, conversation, own)


def answer_seed(seed: int, image_id: int, number: int = 0) -> int:
    """A seed for one answer about one image, below `SEEDS`: independent of part, worker and order.

    It is also independent of the number of answers: a run with more answers begins with the same ones.
    """
    text = f"{seed}:{image_id}" + (f":{number}" if number else "")
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) % SEEDS


def answer_rows(ids: Sequence[int], answers: Sequence[Sequence[Answer]]) -> pa.Table:
    """Rows of the answers table, one per id, each with one or more answers.

    A reply that the server filtered out is an answer without text, and the image's other answers count. Any other
    failure fails the row: a retry requests all its answers again, with the same seeds.
    """
    return pa.table(
        {
            "image_id": ids,
            "texts": [[answer.text for answer in group] for group in answers],
            "cut": [[answer.cut for answer in group] for group in answers],
            "logprobs": [[answer.logprob for answer in group] for group in answers],
            "prompt_tokens": [_sum(group, [answer.prompt_tokens for answer in group]) for group in answers],
            "output_tokens": [_sum(group, [answer.output_tokens for answer in group]) for group in answers],
            "error": [None if (failure := _failure(group)) is None else failure.as_row() for group in answers],
        },
        schema=schemas.ANSWERS,
    )


def _sum(group: Sequence[Answer], tokens: Sequence[int]) -> int | None:
    """The sum, or None if the server did not state the tokens of every answer: a partial sum would be too low."""
    return sum(tokens) if all(answer.tokens_known for answer in group) else None


def _failure(group: Sequence[Answer]) -> Failure | None:
    failures = [answer.failure for answer in group if answer.failure is not None]
    broken = [failure for failure in failures if failure.reason is not Reason.REFUSED]
    if not broken and len(failures) < len(group):
        return None
    return (broken or failures)[0]
