"""What a training says of images that cannot be read."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fgvr.schemas import Failure, Reason
from fgvr.training.checkpoint import failures_of, too_many

LOST = {
    3: Failure(Reason.CORRUPT, "broken data stream"),
    1: Failure(Reason.CORRUPT, "image file is truncated"),
    0: Failure(Reason.NOT_FOUND, "there is nothing at /p/a/0.png"),
}


@dataclass
class Images:
    image_ids: npt.NDArray[np.int64] = field(default_factory=lambda: np.array([10, 20, 30, 40]))
    uris: tuple[str, ...] = ("/p/a/0.png", "/p/a/1.png", "/p/b/2.png", "/p/b/3.png")


def test_too_many_are_told_with_an_example_of_each_reason() -> None:
    words = too_many(LOST, 4, 0.0, Images())
    assert words is not None
    assert words.startswith("3 of 4 training images cannot be read (corrupt (2), e.g. image 20 (a/1.png): image file")
    assert "not_found (1), e.g. there is nothing at /p/a/0.png" in words
    assert "{" not in words
    assert words.endswith("more than run.max_error_share = 0.0 allows")


def test_few_are_no_reason_to_stop_and_none_have_no_words() -> None:
    assert too_many(LOST, 4, 1.0, Images()) is None
    assert failures_of({}).lines() == []
    assert failures_of(LOST).examples["corrupt"].image_id == 1  # without the images: the position
