"""The sweep of heads: learning rate, loss, network, whitening. Its objective needs no true label; see `tune.held_out`.

A trial takes seconds and reports once, so nothing is stopped early. Held-out images, their votes and the objective are
those of near's sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fgvr import storage
from fgvr.arrays import NONE, Floats
from fgvr.candidates.methods import labels_of
from fgvr.clip.model import load_clip
from fgvr.clip.source import find_clip
from fgvr.config import Config, ConfigError
from fgvr.config.base import TrainWorkers
from fgvr.heads.training import RECIPE
from fgvr.models.head import HeadModel, VectorClasses
from fgvr.models.learned_head import learn_heads, sets_of_labels
from fgvr.neighbours.discovery import labelled_neighbours
from fgvr.tables import Table
from fgvr.training.reporter import Reporter
from pipelines.beliefs import second_look
from pipelines.duplicates import photos_of
from pipelines.embed import vectors_at
from pipelines.heads import Heads, recipe_of, taught_by
from pipelines.run_tables import Run
from pipelines.selection import read_whitening
from tune.held_out import MEANING, METRIC, VOTERS, HeldOut, draw_held_out
from tune.near_sweep import FEWEST, HELD_OUT_FILE
from tune.spaces import EPOCH, Objective, Space, Training, heads_space

OBJECTIVE = Objective(metric=METRIC, meaning=MEANING, of="last")
MODEL_FOLDER = "model"
STAGE = Heads()


@dataclass(frozen=True)
class HeadsSweep:
    """Sweeps the trained head; see `tune.spaces.StageSweep`.

    Attributes:
        labels: table of the discovery images' labels.
        embeddings: table of their vectors.
        whitened: table of the whitened space.
        reasked: table of what was asked again (`label.reask`); None where nobody was.
    """

    config: Config
    labels: Table
    embeddings: Table
    whitened: Table
    reasked: Table | None = None
    stage: str = "heads"
    objective: Objective = OBJECTIVE
    epochs: int = 1

    @classmethod
    def of(cls, run: Run) -> HeadsSweep:
        """Build it from the tables of a run; missing ones are computed.

        Raises:
            ConfigError: too few images have a label and a vector.
        """
        labels, embeddings = run.table("labels"), run.table("embeddings")
        reasked = second_look(run)
        count = int((taught_by(labels, embeddings, reasked).labels != NONE).sum())
        if count < FEWEST:
            raise ConfigError(
                f"a sweep of heads holds images out, but only {count} have a label and a vector, and {FEWEST} are "
                "needed: raise label.images.max_images or label.images.per_class"
            )
        return cls(run.config, labels, embeddings, run.table("space"), reasked)

    @property
    def workers(self) -> TrainWorkers:
        """Those of near: the stage itself needs none."""
        return self.config.near.workers

    @property
    def inputs(self) -> Sequence[Table]:
        """Tables that the trials read."""
        return [self.labels, self.embeddings, self.whitened, *([] if self.reasked is None else [self.reasked])]

    @property
    def decides(self) -> Mapping[str, Any]:
        """The recipe without the swept fields, which the space replaces, and the texts where heads start at them."""
        swept = set(self.space())
        recipe = {f"heads.{name}": value for name, value in self.config.heads.deciding().items()}
        texts: dict[str, Any] = {}
        if self.config.heads.start == "text":
            clip = vectors_at(self.config)
            texts = {"clip": find_clip(clip).identity(), "template": clip.template}
        kept = {field: value for field, value in recipe.items() if field not in swept}
        return {"version": RECIPE, "recipe": kept, "objective": MEANING, **texts}

    def space(self) -> Space:
        """Learning rate, loss, network and whitening."""
        return heads_space(self.config)

    def prepare(self, folder: str) -> HeadsSweep:
        """Write the held-out images that measure every trial."""
        taught = taught_by(self.labels, self.embeddings, self.reasked)
        photos, known = photos_of(self.labels, taught.ids), taught.labels != NONE
        held = draw_held_out(known, self.config.heads.seed)
        near = labelled_neighbours(taught.vectors, taught.embedded, known, 1 + VOTERS, photos=photos)
        votes = labels_of(near.ids[held], taught.labels.astype(np.int32))
        HeldOut(taught.vectors[held].astype(np.float16), votes).write(storage.join(folder, HELD_OUT_FILE))
        return self

    def training(self, config: Config, sweep_folder: str, trial_folder: str) -> Training:
        """A head with the trial's values."""
        held_out = storage.join(sweep_folder, HELD_OUT_FILE)
        job = HeadTrial(config, self.labels, self.embeddings, self.whitened, self.reasked, held_out)
        return Training(train_head_judged, job)


@dataclass(frozen=True)
class HeadTrial:
    """A head to be trained with a trial's values, the tables it reads, and the file of the held-out images."""

    config: Config
    labels: Table
    embeddings: Table
    whitened: Table
    reasked: Table | None
    held_out: str


@dataclass(frozen=True)
class InSpace:
    """A head's probabilities over the whole label space: names that it does not know have none."""

    classes: VectorClasses
    labels: tuple[str, ...]

    def scores(self, vectors: npt.NDArray[Any]) -> Floats:
        """Float32 [N, V] of the encoder's vectors [N, d]."""
        place = {name: number for number, name in enumerate(self.labels)}
        scores = np.zeros((len(vectors), len(self.labels)), np.float32)
        scores[:, [place[name] for name in self.classes.labels]] = self.classes.scores(vectors)
        return scores


def train_head_judged(trial: HeadTrial, reporter: Reporter) -> None:
    """Train a head without the held-out images, and report the objective once, with the head as checkpoint."""
    config = trial.config.heads
    taught = taught_by(trial.labels, trial.embeddings, trial.reasked)
    held = draw_held_out(taught.labels != NONE, config.seed)
    photos = photos_of(trial.labels, taught.ids)
    out = np.isin(np.arange(len(taught.ids)) if photos is None else photos, held if photos is None else photos[held])
    labels = np.where(out, NONE, taught.labels)
    start = None
    if config.start == "text":
        clip = load_clip(vectors_at(trial.config))
        start = (clip.encode_names(taught.names, vectors_at(trial.config).template), clip.logit_scale)
    learned = learn_heads(
        taught.vectors,
        labels,
        sets_of_labels(labels),
        taught.names,
        read_whitening(trial.whitened) if STAGE.whitens(trial.config) else None,
        recipe=recipe_of(config),
        members=config.members,
        seed=config.seed,
        start=start,
    )
    measured = HeldOut.read(trial.held_out).measure(InSpace(learned.classes, taught.names))

    def save(folder: Path) -> None:
        HeadModel(learned.classes, None).save(folder / MODEL_FOLDER)

    reporter.report({EPOCH: 1.0, **measured}, save)
