"""label: the model's own words about each image, one row of the answers table an image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from fgvr import schemas
from fgvr.config.data import ImageLimits
from fgvr.config.models import OpenAIBackend, VllmBackend
from fgvr.mllm.backend import Answer, ImageRequest, Labeler, Sampling
from fgvr.mllm.backends import make_backend
from fgvr.mllm.pictures import PictureReader
from fgvr.mllm.prompts import image_conversation


@dataclass(frozen=True)
class LabelSettings:
    """What the workers of label need; pickles.

    Attributes:
        mllm: the model.
        prompt: what is asked beside the image.
        sampling: of the answers; every image gets a seed of its own from its seed.
        limits: of reading an image.
        threads: that read images.
    """

    mllm: VllmBackend | OpenAIBackend
    prompt: str
    sampling: Sampling
    limits: ImageLimits
    threads: int = 4


class LabelWorker:
    """The PartWorker of label; see fgvr.part_worker.PartWorker."""

    def __init__(self, settings: LabelSettings, backend: Labeler | None = None) -> None:
        """Load the model, or take a backend that runs already."""
        self.settings = settings
        self.backend: Labeler = backend or make_backend(settings.mllm)

    def process(self, rows: pa.Table) -> pa.Table:
        """Answers for rows with `image_id` and `uri`: one row of ANSWERS each, in order."""
        ids = rows["image_id"].to_pylist()
        reader = PictureReader(rows["uri"].to_pylist(), self.settings.limits, threads=self.settings.threads)
        given = self.backend.label(self._requests(ids, reader))
        answers = {place: Answer(None, failure=failure) for place, failure in reader.failures.items()}
        answers |= dict(zip(reader.places, given, strict=True))
        return answer_rows(ids, [answers[place] for place in range(len(ids))])

    def _requests(self, ids: Sequence[int], reader: PictureReader) -> Iterator[ImageRequest]:
        conversation = image_conversation(self.settings.prompt)
        sampling = self.settings.sampling
        for place, picture in reader:
            own = replace(sampling, seed=image_seed(sampling.seed or 0, ids[place]))
            yield ImageRequest(picture, conversation, own)


def image_seed(seed: int, image_id: int) -> int:
    """A seed for one image, 63 bits: the same whatever part, worker or order the image is answered in."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{image_id}".encode(), digest_size=8).digest()) >> 1


def answer_rows(ids: Sequence[int], answers: Sequence[Answer]) -> pa.Table:
    """Rows of the answers table, one an id."""
    return pa.table(
        {
            "image_id": ids,
            "raw": [answer.text for answer in answers],
            "logprob": [answer.logprob for answer in answers],
            "prompt_tokens": [answer.prompt_tokens for answer in answers],
            "output_tokens": [answer.output_tokens for answer in answers],
            "error": [None if answer.failure is None else answer.failure.as_row() for answer in answers],
        },
        schema=schemas.ANSWERS,
    )
