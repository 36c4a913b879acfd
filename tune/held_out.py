"""How good learned prompts are on discovery images that they did not learn from, without any true label.

A share of the labelled images is held out: they give no candidates, neither their own nor their neighbours'. For each
of them its own MLLM label and those of its `VOTERS` nearest images are counted, one vote each; the objective is the
mean share of the votes that name what the model predicts:

    score = mean_i  votes_i[prediction_i] / (number of votes of i)

What it is not, and why:

- It depends on the prediction alone. A likelihood of noisy labels is best for a model that is as unsure as they are
  noisy, and so prefers losses that learn the noise (`ce`, k = 1) to those that settle on a label.
- The votes are the same for all trials. Held-out *candidate sets* would have the trial's own k, and a set that holds
  more labels is easier to hit.
- The voters are many. Agreement with an image's own label alone rewards a model for the MLLM's systematic mistakes,
  which a small k learns; neighbours that see other backgrounds and poses outvote them.
- The own label has a vote, too. Neighbours alone would reward whatever smooths over CLIP's space, as a large k does.

Measured on drawn birds (six sets of labels of which a third is wrong, 30 settings of loss, k and learning rate each),
the mean rank correlation with the true test accuracy is 0.92, and the setting that it picks is 0.2 points below the
best one; true labels of the same images lose 0.8 points, own labels alone 1.7, their likelihood 4.2 (docs/tuning.md).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgvr import storage
from fgvr.arrays import NONE, Ids, Labels
from fgvr.models.near import ClassFeatures
from fgvr.training.prompt import train_near
from fgvr.training.prompt_data import NearJob
from fgvr.training.reporter import Reporter

METRIC = "held_out_votes"
MEANING = (
    "mean share of the votes for the predicted label on discovery images held out of training, where an image's own "
    "MLLM label and those of its 10 nearest images have a vote each; no true label has a part in it"
)
VOTERS = 10  # nearest other images, as in fgvr.candidates.agreement
SHARE = 0.25  # of the labelled images is held out …
MOST = 5000  # … but no more than make the score's standard error 0.007
AT_ONCE = 2**24  # images × names scored at once


@dataclass(frozen=True)
class HeldOut:
    """Images that a model is measured on.

    Attributes:
        features: L2-normalised, fp16 [n, d].
        votes: labels of the image itself and its nearest others, int32 [n, 1 + VOTERS]; `NONE` for no vote.
    """

    features: npt.NDArray[np.float16]
    votes: Labels

    def measure(self, classes: ClassFeatures) -> dict[str, float]:
        """The objective of a model given by the text side of its classes."""
        step = max(1, AT_ONCE // len(classes.labels))
        parts = [slice(at, at + step) for at in range(0, len(self.features), step)]
        predicted = [classes.scores(self.features[part]).argmax(axis=1) for part in parts]
        return {METRIC: share_of_votes(np.concatenate(predicted), self.votes)}

    def write(self, uri: str) -> None:
        """As a file."""
        content = io.BytesIO()
        np.savez(content, features=self.features, votes=self.votes)
        storage.write_bytes(uri, content.getvalue())

    @classmethod
    def read(cls, uri: str) -> HeldOut:
        """As `write` left it."""
        with np.load(io.BytesIO(storage.read_bytes(uri))) as content:
            return cls(content["features"], content["votes"])


def share_of_votes(predicted: Ids, votes: Labels) -> float:
    """Mean share of an image's votes that name its prediction.

    Args:
        predicted: label ids, int64 [n], n > 0.
        votes: label ids, int32 [n, V]; `NONE` for no vote; every image has at least one.
    """
    agreeing = (votes == predicted[:, None]).sum(axis=1)
    return float((agreeing / (votes != NONE).sum(axis=1)).mean())


def draw_held_out(known: npt.NDArray[np.bool_], seed: int) -> Ids:
    """Row numbers of the images to hold out, ascending, of those that are `known` to have a label and a vector.

    At least one is held out, and at least one is kept, where there are two.
    """
    rows = np.flatnonzero(known)
    count = min(max(round(SHARE * len(rows)), 1), MOST, max(len(rows) - 1, 0))
    # Another stream than that of near.validation_share.
    return np.sort(np.random.default_rng((seed, 2**32 + 1)).permutation(rows)[:count])


@dataclass(frozen=True)
class JudgedJob:
    """A training, and the file of the images that it is measured on."""

    near: NearJob
    held_out: str


def train_judged(job: JudgedJob, reporter: Reporter) -> None:
    """NeaR's training loop, which reports the objective beside its own numbers."""
    train_near(job.near, reporter, judge=HeldOut.read(job.held_out).measure)
