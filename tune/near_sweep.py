"""The sweep of near: learning rate, k, loss, context length. Its objective needs no true label; see `tune.held_out`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ray.tune.search.sample import Categorical

from fgvr import storage, tables
from fgvr.arrays import NONE, Ids
from fgvr.candidates.methods import candidate_sets, estimate_of, labels_of, most_neighbours, used_neighbours
from fgvr.candidates.sets import candidate_rows
from fgvr.clip.source import find_clip, pinned
from fgvr.config import Config, ConfigError
from fgvr.config.base import TrainWorkers
from fgvr.names.label_space import read_label_space
from fgvr.neighbours import Neighbours
from fgvr.neighbours.discovery import discovery_vectors, labelled_neighbours
from fgvr.precision import of_workers
from fgvr.tables import Table
from fgvr.training.prompt import RECIPE
from fgvr.training.prompt_data import NearJob
from pipelines.beliefs import second_look, settled_names
from pipelines.duplicates import photos_of
from pipelines.run_tables import Run
from tune.held_out import MEANING, METRIC, VOTERS, HeldOut, JudgedJob, draw_held_out, train_judged
from tune.spaces import Objective, Space, Training, near_space

OBJECTIVE = Objective(metric=METRIC, meaning=MEANING, of="last")
HELD_OUT_FILE, LEARNED_FILE = "held_out.npz", "learned.npz"
FEWEST = 10  # images; a score on one or two says nothing


@dataclass(frozen=True)
class Learned:
    """The discovery images on which trials train.

    Attributes:
        rows: bool [N], which of all discovery images are used.
        neighbours: row numbers int64 [N, k] of the nearest among them for the largest k; `NONE` where one is missing.
        scores: cosine similarities of the neighbours, float32 [N, k].
    """

    rows: npt.NDArray[np.bool_]
    neighbours: Ids
    scores: npt.NDArray[np.float32]

    def write(self, uri: str) -> None:
        """Write to a file."""
        content = io.BytesIO()
        np.savez(content, rows=self.rows, neighbours=self.neighbours, scores=self.scores)
        storage.write_bytes(uri, content.getvalue())

    @classmethod
    def read(cls, uri: str) -> Learned:
        """Read what `write` wrote."""
        with np.load(io.BytesIO(storage.read_bytes(uri))) as content:
            return cls(content["rows"], content["neighbours"], content["scores"])


@dataclass(frozen=True)
class NearSweep:
    """Sweeps prompt learning; see `tune.spaces.StageSweep`.

    Attributes:
        labels: table of the discovery images' labels.
        embeddings: table of their vectors.
        views: table of augmented views; None where `near.views` is 1.
        images: the images on which trials train.
        reasked: table of what was asked again (`label.reask`); None where nobody was.
    """

    config: Config
    labels: Table
    embeddings: Table
    views: Table | None
    images: int
    reasked: Table | None = None
    stage: str = "near"
    objective: Objective = OBJECTIVE

    @classmethod
    def of(cls, run: Run) -> NearSweep:
        """Build it from the tables of a run; missing ones are computed.

        Raises:
            ConfigError: too few images have a label and a vector, or candidate sets that trials cannot make.
        """
        config = run.config
        if config.candidates.method == "posterior" or config.candidates.guard:
            field = "method = posterior" if config.candidates.method == "posterior" else "guard = True"
            raise ConfigError(
                f"candidates.{field}: a sweep makes candidate sets for each trial by the nearest labels alone; set "
                "candidates.method to neighbours, adaptive, mllm, random or single, and candidates.guard to false"
            )
        labels, embeddings = run.table("labels"), run.table("embeddings")
        reasked = second_look(run)
        ids, own = settled_names(labels, reasked)
        known = discovery_vectors(embeddings, ids)[1] & (own.first != NONE)
        images = int(known.sum()) - len(draw_held_out(known, config.near.seed))
        if int(known.sum()) < FEWEST:
            raise ConfigError(
                f"a sweep of near holds images out, but only {known.sum()} have a label and a vector, and "
                f"{FEWEST} are needed: raise label.images.max_images or label.images.per_class"
            )
        views = run.table("views") if config.near.views > 1 else None
        return cls(config, labels, embeddings, views, images, reasked)

    @property
    def workers(self) -> TrainWorkers:
        """The workers of one training run, as configured."""
        return self.config.near.workers

    @property
    def epochs(self) -> int:
        """The epochs of a whole training run."""
        return self.config.near.epochs

    @property
    def inputs(self) -> Sequence[Table]:
        """Tables that the trials read."""
        return [table for table in (self.labels, self.embeddings, self.views, self.reasked) if table is not None]

    @property
    def decides(self) -> Mapping[str, Any]:
        """The recipes of candidates and near without the swept fields, which the space replaces, and the CLIP model."""
        swept = set(self.space())
        parts = {"near": self.config.near, "candidates": self.config.candidates}
        fields = {f"{part}.{name}": value for part, each in parts.items() for name, value in each.deciding().items()}
        # The guard, which a sweep does not have, is newer than the sweeps that are finished.
        recipe = {field: value for field, value in fields.items() if field not in {*swept, "candidates.guard"}}
        return {
            "version": RECIPE,
            "recipe": recipe,
            "clip": find_clip(self.config.clip).identity(),
            "precision": of_workers(self.config.near.workers),
            "objective": MEANING,
        }

    def space(self) -> Space:
        """Learning rate, k, loss and context length."""
        return near_space(self.config, self.images)

    def prepare(self, folder: str) -> NearSweep:
        """Write the held-out images that measure every trial, and the neighbours of the others for the largest k."""
        ids, own = settled_names(self.labels, self.reasked)
        vectors, embedded = discovery_vectors(self.embeddings, ids)
        labelled, photos = own.first != NONE, photos_of(self.labels, ids)
        held = draw_held_out(embedded & labelled, self.config.near.seed)
        among_all = labelled_neighbours(vectors, embedded, labelled, 1 + VOTERS, photos=photos)
        votes = labels_of(among_all.ids[held], own.first)
        HeldOut(vectors[held], votes).write(storage.join(folder, HELD_OUT_FILE))
        learned = embedded.copy()
        learned[held] = False
        if photos is not None:  # a copy of a held-out image in training, with the same answer, would leak that image
            learned[np.isin(photos, photos[held])] = False
        domain = self.space().get("candidates.k")
        largest = max(domain.categories) if isinstance(domain, Categorical) else most_neighbours(self.config.candidates)
        found = labelled_neighbours(vectors, learned, labelled, largest, photos=photos)
        Learned(learned, found.ids, found.scores).write(storage.join(folder, LEARNED_FILE))
        return self

    def training(self, config: Config, sweep_folder: str, trial_folder: str) -> Training:
        """A training run on candidate sets for the trial's k, made from the neighbours found before."""
        ids, own = settled_names(self.labels, self.reasked)
        learned = Learned.read(storage.join(sweep_folder, LEARNED_FILE))
        space = read_label_space(self.labels)
        found = Neighbours(learned.neighbours, learned.scores, "", 1.0)
        agreement = estimate_of(found, own.first, config.candidates.k)
        sets = candidate_sets(
            config.candidates, found, own, embedded=learned.rows, space=len(space.labels), agreement=agreement
        )
        k = used_neighbours(config.candidates, agreement)
        near, scores = found.ids[:, :k], found.scores[:, :k]
        near_ids = np.where(near == NONE, NONE, ids[near])
        folder = storage.join(trial_folder, "candidates")
        tables.write_part(folder, 0, candidate_rows(ids, near_ids, scores, sets))
        Table(folder, "candidates", "", len(ids), 0, 1, len(ids), 0.0).commit()
        job = NearJob(
            settings=config.near,
            clip=pinned(config.clip),
            labels=self.labels.uri,
            embeddings=self.embeddings.uri,
            candidates=folder,
            views=None if self.views is None else self.views.uri,
        )
        return Training(train_judged, JudgedJob(job, storage.join(sweep_folder, HELD_OUT_FILE)))
