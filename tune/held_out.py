"""The quality of learned prompts on held-out discovery images, without any true label.

A share of the labelled images is held out: they give no candidates, neither to themselves nor to their neighbours. The
own MLLM label of each of them and the labels of its `VOTERS` nearest images have one vote each; the objective is the
mean share of votes that agree with the model's prediction:

    score = mean_i  votes_i[prediction_i] / (number of votes of i)

The reasons for this design:

- The objective depends only on the predicted label. A likelihood of noisy labels is best for a model that is as unsure
  as they are noisy, and so prefers losses that learn the noise (`ce`, k = 1) to those that settle on a label.
- The votes are the same for all trials. Held-out *candidate sets* would have the trial's own k, and a set with more
  labels is easier to hit.
- There are many voters. Agreement with an image's own label alone rewards a model for the MLLM's systematic mistakes,
  which a small k learns; neighbours with other backgrounds and poses outvote them.
- The own label has a vote, too. Neighbours alone would reward anything that smooths CLIP's space, as a large k does.

Measured on drawn birds (six sets of labels, a third of them wrong; 30 settings of loss, k and learning rate each), its
mean rank correlation with the true test accuracy is 0.92, and the setting that it selects is 0.2 points below the best
one. True labels of the same images lose 0.8 points, own labels alone 1.7, their likelihood 4.2 (docs/tuning.md).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgvr import storage
from fgvr.arrays import NONE, Ids, Labels
from fgvr.models.from_features import VectorClassifier
from fgvr.training.prompt import train_near
from fgvr.training.prompt_data import NearJob
from fgvr.training.reporter import Reporter

METRIC = "held_out_votes"
MEANING = (
    "mean share of the votes for the predicted label on discovery images held out of training, where an image's own "
    "MLLM label and those of its 10 nearest images have a vote each; no true label has a part in it"
)
VOTERS = 10  # number of nearest other images, as in fgvr.candidates.agreement
SHARE = 0.25  # share of the labelled images that is held out …
MOST = 5000  # … but at most this many: the score's standard error is 0.007 then
AT_ONCE = 2**24  # images × names per batch of scores


@dataclass(frozen=True)
class HeldOut:
    """The held-out images on which a model is measured.

    Attributes:
        features: L2-normalised, fp16 [n, d].
        votes: labels of the image itself and of the nearest others, int32 [n, 1 + VOTERS]; `NONE` for no vote.
    """

    features: npt.NDArray[np.float16]
    votes: Labels

    def measure(self, classes: VectorClassifier) -> dict[str, float]:
        """The objective of a model, given without the encoder of its vectors; its classes are the label space."""
        step = max(1, AT_ONCE // len(classes.labels))
        parts = [slice(at, at + step) for at in range(0, len(self.features), step)]
        predicted = [classes.scores(self.features[part]).argmax(axis=1) for part in parts]
        return {METRIC: share_of_votes(np.concatenate(predicted), self.votes)}

    def write(self, uri: str) -> None:
        """Write to a file."""
        content = io.BytesIO()
        np.savez(content, features=self.features, votes=self.votes)
        storage.write_bytes(uri, content.getvalue())

    @classmethod
    def read(cls, uri: str) -> HeldOut:
        """Read what `write` wrote."""
        with np.load(io.BytesIO(storage.read_bytes(uri))) as content:
            return cls(content["features"], content["votes"])


def share_of_votes(predicted: Ids, votes: Labels) -> float:
    """Mean share of an image's votes that agree with its prediction.

    Args:
        predicted: label ids, int64 [n], n > 0.
        votes: label ids, int32 [n, V]; `NONE` for no vote; every image has at least one.
    """
    agreeing = (votes == predicted[:, None]).sum(axis=1)
    return float((agreeing / (votes != NONE).sum(axis=1)).mean())


def draw_held_out(known: npt.NDArray[np.bool_], seed: int) -> Ids:
    """Ascending row numbers of the images to hold out, among those `known` to have a label and a vector.

    At least one is held out, and at least one is kept if there are two.
    """
    rows = np.flatnonzero(known)
    count = min(max(round(SHARE * len(rows)), 1), MOST, max(len(rows) - 1, 0))
    # A random stream different from that of near.validation_share.
    return np.sort(np.random.default_rng((seed, 2**32 + 1)).permutation(rows)[:count])


@dataclass(frozen=True)
class JudgedJob:
    """A training run, and the file of the held-out images on which it is measured."""

    near: NearJob
    held_out: str


def train_judged(job: JudgedJob, reporter: Reporter) -> None:
    """NeaR's training loop, which also reports the objective."""
    train_near(job.near, reporter, judge=HeldOut.read(job.held_out).measure)
