"""The state of training with which new photos are compared: photos that were learned from, and others like them.

Code of `pipelines/drift.py`: which photos are compared with which, and the tables `reference_predictions` and
`drift_reference`. The file of the latter goes with the model to other runs (`infer.drift.reference`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fgvr import storage
from fgvr.config import Config, ConfigError
from pipelines.asks import Work
from pipelines.embed import stated
from pipelines.infer import Predictions, identity_of, image_ids
from pipelines.run_tables import Run, per_run
from pipelines.stage import Stage

if TYPE_CHECKING:
    import numpy as np

    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.drift.reference import Reference
    from fgvr.models.infer import InferSettings

REFERENCE_FILE = "reference.npz"
STUDENTS = frozenset({"makd", "base"})


def measured(config: Config) -> bool:
    """Whether a whole job compares its photos with those of training."""
    return config.infer.drift.measure


def check_drift(config: Config) -> None:
    """Raise ConfigError where photos cannot be compared."""
    infer = config.infer
    if not infer.drift.measure:
        raise ConfigError("infer.drift.measure is false: set it to true to compare photos with those of training")
    embed = config.embed
    if embed.images != "all":
        raise ConfigError(
            f"embed.images = {embed.images}: photos are compared by their vectors, and only those of other stages get "
            "one; set it to all"
        )
    if embed.splits is not None and infer.split not in embed.splits:
        named = "other splits" if infer.split is None else infer.split
        raise ConfigError(
            f"infer.drift.measure: photos are compared by their vectors, and embed.splits leaves out {named}, which "
            "infer classifies; add it there"
        )
    place, model = infer.drift.reference, infer.model
    if (place is None) == (model is None):
        return
    if place is None:
        raise ConfigError(
            f"infer.model = {model}: with which photos it was trained, its own run knows; set infer.drift.reference to "
            "the folder drift_reference of that run, which pipelines/drift.py makes there"
        )
    raise ConfigError(
        f"infer.drift.reference = {place}: it goes with a given model, and a model of this run classifies; set "
        "infer.model, or leave the reference out"
    )


def reference_file(config: Config) -> str:
    """URI of the given reference's file."""
    place = storage.absolute(config.infer.drift.reference or "")
    return place if place.endswith(".npz") else storage.join(place, REFERENCE_FILE)


def given_reference(config: Config) -> tuple[Reference, str]:
    """The given reference and a digest of its file.

    Raises:
        ConfigError: there is none, or it is of another model or encoder.
        DriftError: it is damaged.
    """
    from fgvr.drift.reference import Reference

    place, infer = reference_file(config), config.infer
    try:
        data = storage.read_bytes(place)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"infer.drift.reference: there is no {place}; pipelines/drift.py makes it in the run that trained the model"
        ) from None
    found = Reference.from_bytes(data, place)
    if found.model != identity_of(storage.absolute(infer.model or "")):
        raise ConfigError(f"infer.drift.reference: {place} was made with another model than infer.model")
    if found.encoder != encoder_stated(config):
        raise ConfigError(
            f"infer.drift.reference: {place} was made with vectors of another encoder than embed.vectors and clip name"
        )
    return found, hashlib.sha256(data).hexdigest()


def encoder_stated(config: Config) -> dict[str, Any]:
    """The identity of the vectors' encoder; nothing where no encoder made them."""
    try:
        return stated(config)
    except ConfigError:
        return {}


def _learned_split(config: Config) -> str:
    """The split from which the model learned."""
    return config.makd.split if config.infer.trained in STUDENTS else config.label.images.drawn_from


@per_run
def learned_ids(run: Run) -> Ids:
    """Ascending ids of the photos that this run's model learned from, those held out left out."""
    import numpy as np

    trained = run.config.infer.trained
    students = trained in STUDENTS
    rows = run.table(trained).read(["image_id", "label_id", *(("held_out",) if students else ())])
    learned = rows["label_id"].is_valid().to_numpy(zero_copy_only=False)
    if students:
        learned &= ~rows["held_out"].fill_null(True).to_numpy(zero_copy_only=False)
    return np.sort(rows["image_id"].to_numpy()[learned])


@per_run
def reference_ids(run: Run) -> Ids:
    """Ascending ids of the reference photos: of the splits that were learned from, but not learned from."""
    import numpy as np

    from fgvr.sources.sampling import first_of, split_ids

    drift = run.config.infer.drift
    others = np.setdiff1d(split_ids(run.table("samples"), [_learned_split(run.config)]), learned_ids(run))
    return first_of(others, drift.reference_images, drift.seed)


@per_run
def new_ids(run: Run) -> Ids:
    """Ascending ids of the photos that are compared: those classified, without those of training and of reference."""
    import numpy as np

    from fgvr.drift.reference import DriftError

    ids = image_ids(run.table("samples"), run.config.infer.split)
    if run.config.infer.drift.reference is not None:
        return ids
    new = np.setdiff1d(np.setdiff1d(ids, learned_ids(run)), reference_ids(run))
    if not len(new):
        raise DriftError(
            "infer.drift.measure: all photos that infer classifies were learned from, or are those with which new ones "
            "are compared; set infer.split to another split, or lower infer.drift.reference_images"
        )
    return new


class ReferencePredictions(Predictions):
    """What the model says about photos of the training split that it did not learn from."""

    table = "reference_predictions"

    def wanted(self, config: Config) -> bool:
        """Where photos are compared with this run's own."""
        return False  # computed where it is read

    def check(self, config: Config) -> None:
        """As of drift."""
        check_drift(config)

    def splits(self, config: Config) -> Iterable[tuple[str, str]]:
        """None of its own."""
        return ()

    def which(self, run: Run) -> Ids:
        """The reference photos."""
        return reference_ids(run)

    def works(self, run: Run) -> Work:
        """At most so many photos."""
        return Work(run.photos.bounded(_learned_split(run.config), run.config.infer.drift.reference_images))

    def settings(self, run: Run) -> InferSettings:
        """With the energy of the logits; names are the most probable ones, as costs only decide between them."""
        return replace(super().settings(run), energy=True)


class DriftReference(Stage):
    """How photos of the training split that were not learned from lie to those that were."""

    table = "drift_reference"
    phase = None

    def check(self, config: Config) -> None:
        """As of drift."""
        check_drift(config)

    def reads(self, run: Run) -> Iterable[str]:
        """The vectors, and who was learned from."""
        return ("samples", "embeddings", run.config.infer.trained, "reference_predictions")

    def recipe(self, run: Run) -> dict[str, Any]:
        """The photos, and the rules."""
        from cluster.fingerprint import digest_of_ids
        from fgvr.drift import scores

        drift = run.config.infer.drift
        ids = [digest_of_ids(learned_ids(run)), digest_of_ids(reference_ids(run))]
        return {"ids": ids, "k": drift.nearest, "seed": drift.seed, "rules": scores.RULES}

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Measure the reference photos, and write the file that goes with the model."""
        import numpy as np
        import pyarrow as pa

        from fgvr import schemas
        from fgvr.drift.reference import Reference, counted
        from fgvr.drift.score_worker import doubts

        config, ids = run.config.infer, reference_ids(run)
        bank, _ = vectors_of(run, _bank_ids(run))
        vectors, there = vectors_of(run, ids)
        learned = _learned(bank)
        distance = np.full(len(ids), np.nan)
        distance[np.searchsorted(ids, there)] = learned.distances(vectors, config.drift.nearest)
        predictions = run.table("reference_predictions")
        energies = predictions.read(["energy"])["energy"]
        has_energy = energies.null_count < len(energies)
        doubt, labels = doubts(predictions, ids, energy=has_energy)
        reference = Reference(
            bank,
            learned.whitening,
            distance,
            doubt,
            counted(labels.tolist()),
            config.drift.nearest,
            has_energy,
            identity_of(predictions.extra["model"]),
            encoder_stated(run.config),
        )
        reference.check()
        folder.write_bytes(REFERENCE_FILE, reference.to_bytes())
        columns = {
            "image_id": ids,
            "distance": pa.array(distance, from_pandas=True),
            "doubt": pa.array(doubt, from_pandas=True),
            "label": pa.array(labels, pa.string()),
            "error": pa.nulls(len(ids), schemas.ERROR.type),
        }
        summary = folder.write_table(pa.table(columns, schema=schemas.DRIFT_REFERENCE))
        summary.metrics = {"learned": float(len(bank)), "photos": float(np.isfinite(distance).sum())}
        summary.extra = {"energy": has_energy}
        return summary

    def made(self, run: Run, table: Any) -> None:
        """Copy the file to a place that does not depend on the config, for other runs."""
        run.keep(f"{self.table}/{REFERENCE_FILE}", storage.read_bytes(table.path(REFERENCE_FILE)))


def _bank_ids(run: Run) -> Ids:
    from fgvr.drift.reference import MOST_LEARNED
    from fgvr.sources.sampling import first_of

    return first_of(learned_ids(run), MOST_LEARNED, run.config.infer.drift.seed)


def vectors_of(run: Run, ids: Ids) -> tuple[np.ndarray[Any, Any], Ids]:
    """Vectors of those of `ids` (ascending) that have one, float16 [n, d], and which these are."""
    import numpy as np

    from fgvr.neighbours.discovery import vector_blocks

    embeddings = run.table("embeddings")
    blocks = list(vector_blocks(embeddings, ids))
    none = np.zeros((0, int(embeddings.extra["dim"])), np.float16)
    vectors = np.concatenate([none, *(vectors for _, vectors in blocks)])
    return vectors, np.concatenate([np.zeros(0, np.int64), *(here for here, _ in blocks)])


def _learned(bank: np.ndarray[Any, Any]) -> Any:
    import os

    from fgvr.drift.scores import Learned

    return Learned(bank, threads=len(os.sched_getaffinity(0)))
