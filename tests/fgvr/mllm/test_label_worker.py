"""Several answers about an image, with a backend in place of a model."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from fgvr import schemas
from fgvr.config import ImageLimits, build
from fgvr.mllm.backend import Answer, ImageRequest, Sampling
from fgvr.mllm.label_worker import LabelSettings, LabelWorker, answer_rows, answer_seed
from fgvr.schemas import Failure, Reason


class Told:
    """Says its seed; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[ImageRequest] = []

    def label(self, requests: Iterable[ImageRequest]) -> list[Answer]:
        answers = []
        for request in requests:
            self.asked.append(request)
            answers.append(Answer(str(request.sampling.seed), -0.5, 20, 3))
        return answers


def ask(folder: Path, samples: int) -> tuple[Told, pa.Table]:
    uris = [str(folder / f"{number}.png") for number in range(3)]
    for uri in uris[::2]:
        Image.new("RGB", (8, 8), (len(uri), 0, 0)).save(uri)
    settings = LabelSettings(build({}).mllm, "Name it", Sampling(8, 1.0, 7), ImageLimits(), samples)
    told = Told()
    return told, LabelWorker(settings, told).process(pa.table({"image_id": [4, 5, 9], "uri": uris}))


def test_every_answer_has_its_own_seed_and_an_image_is_decoded_once(tmp_path: Path) -> None:
    told, rows = ask(tmp_path, samples=3)
    assert rows.schema.equals(schemas.ANSWERS)
    first, missing, last = rows.to_pylist()
    assert first["texts"] == [str(answer_seed(7, 4, number)) for number in range(3)]
    assert last["texts"] == [str(answer_seed(7, 9, number)) for number in range(3)]
    assert len({*first["texts"], *last["texts"]}) == 6
    assert (first["prompt_tokens"], first["output_tokens"], first["logprobs"]) == (60, 9, [-0.5] * 3)
    assert missing["error"]["reason"] == "not_found"
    pictures = [request.picture for request in told.asked]
    assert pictures[0] is pictures[1] is pictures[2]  # the same object: an engine knows it again by its content id
    assert len(pictures) == 6


def test_more_answers_begin_with_the_same_ones(tmp_path: Path) -> None:
    one, three = (ask(tmp_path, samples)[1]["texts"].to_pylist() for samples in (1, 3))
    assert one[0] == three[0][:1]


@pytest.mark.parametrize(
    ("reasons", "row"),
    [
        ([None, None], None),
        ([None, Reason.REFUSED], None),  # one answer held back: the other counts
        ([Reason.REFUSED, Reason.REFUSED], "refused"),
        ([None, Reason.ENGINE_ERROR], "engine_error"),  # a retry asks for both again
        ([Reason.REFUSED, Reason.REQUEST_REJECTED], "request_rejected"),
    ],
)
def test_which_failures_fail_the_row(reasons: list[Reason | None], row: str | None) -> None:
    group = [Answer("Wren") if reason is None else Answer(None, failure=Failure(reason, "x")) for reason in reasons]
    (found,) = answer_rows([1], [group]).to_pylist()
    assert found["texts"] == [answer.text for answer in group]  # what was said is kept in any case
    assert (found["error"] and found["error"]["reason"]) == row


def test_seeds_fit_into_32_bits_and_hardly_ever_meet() -> None:
    """Of 20,000 seeds below 2^31 about n²/2m = 0.09 pairs are equal."""
    seeds = [answer_seed(7, image, number) for image in range(5_000) for number in range(4)]
    assert 0 <= min(seeds) < 2**24
    assert 2**31 - 2**24 < max(seeds) < 2**31
    assert len(set(seeds)) >= len(seeds) - 3
