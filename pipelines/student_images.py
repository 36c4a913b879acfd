"""Which images the MLLM answers aspect questions about, which ones students learn from, and who names them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from fgvr import storage
from fgvr.config import Config, ConfigError
from fgvr.config.vectors import has_texts
from pipelines.photo_counts import Photos
from pipelines.run_tables import Run, per_run, per_samples
from pipelines.train_stage import MODEL_FOLDER

if TYPE_CHECKING:
    import pyarrow as pa

    from fgvr.arrays import Ids
    from fgvr.models.from_features import VectorClassifier

Namer = Literal["near", "heads", "label_prototypes"]
"""Tables beside which lies a model that names images by their vectors."""


def namer(config: Config) -> Namer:
    """The method whose names are the classes of students where the true ones are unknown or not wanted."""
    target = config.makd.target
    if target in {"auto", "true"}:
        return "near" if has_texts(config.embed.vectors) or config.embed.vectors.made_up else "heads"
    return target  # type: ignore[return-value]  # the remaining choices


def learns_names(config: Config, photos: Photos) -> bool:
    """Whether the classes of students are names that a method gives; based on expected counts before photos are listed.

    `auto` takes the true classes only if every image has one: a name of the label space and a true class may mean the
    same species, and a mixture would then teach the student two classes for it.
    """
    target = config.makd.target
    return target != "true" and (target != "auto" or not photos.all_have_classes(config.makd.split))


def scope(config: Config, photos: Photos) -> Literal["asked", "pool", "all"]:
    """From which images students learn, with `auto` resolved."""
    images = config.makd.images
    if images != "auto":
        return images
    return "pool" if learns_names(config, photos) or config.makd.trainer == "semi" else "asked"


def most_learned(config: Config, photos: Photos) -> int | None:
    """Largest number of images that students learn from; None: the whole split."""
    of_scope = {"asked": config.aspects.max_images, "all": None}
    where = scope(config, photos)
    if where != "pool":
        return of_scope[where]
    asked = config.aspects.max_images
    return None if asked is None else max(config.makd.pool, asked)


def learned(config: Config, photos: Photos) -> int:
    """Number of images that a student trains on, the held-out ones included; an estimate before they are listed."""
    return math.ceil(photos.bounded(config.makd.split, most_learned(config, photos)) * config.makd.fraction)


def follows_selection(config: Config, split: str) -> bool:
    """Whether the images of this split that are asked about come from those chosen for labels."""
    return config.label.images.chosen and config.label.images.drawn_from == split


@per_samples
def aspect_ids(run: Run) -> Ids:
    """Ascending ids of the images that `aspects.split` and `aspects.max_images` select.

    They are kept with the samples: a run keeps its selection as long as the settings are the same.
    """
    return asked_of(run, run.config.aspects.split, "aspects.split")


def asked_of(run: Run, split: str, field: str) -> Ids:
    """Ascending ids of the images of a split that are asked about: at most `aspects.max_images`.

    Those that were chosen for labels (`label.images.select`) come first, then others in the order of the seed.

    Raises:
        ConfigError: no image is in the split, which `field` names.
    """
    import numpy as np

    from fgvr.sources.sampling import first_of, split_ids

    config, samples = run.config, run.table("samples")
    most, seed = config.aspects.max_images, config.aspects.seed
    ids = split_ids(samples, [split])
    if not len(ids):
        known = ", ".join(sorted(samples.extra["splits"]))
        raise ConfigError(f"{field} = {split}: no image is in this split (there are: {known})")
    if most is None or most >= len(ids) or not follows_selection(config, split):
        return first_of(ids, most, seed)
    chosen: Ids = np.sort(run.table("selected").read(["image_id"])["image_id"].to_numpy())
    others = np.setdiff1d(ids, chosen, assume_unique=True)
    return np.union1d(first_of(chosen, most, seed), first_of(others, max(0, most - len(chosen)), seed))


@per_samples
def learned_rows(run: Run) -> pa.Table:
    """Ids and true classes of the images that students learn from (`makd.images`), as `class_rows` gives them.

    Raises:
        ConfigError: no image is in `makd.split`.
    """
    import numpy as np

    from fgvr.sources.sampling import first_of
    from fgvr.tables import rows_among
    from fgvr.training.assemble import class_rows

    config = run.config
    rows = class_rows(run.table("samples"), config.makd.split)
    where = scope(config, run.photos)
    if where == "all":
        return rows
    ids = asked_of(run, config.makd.split, "makd.split")
    if where == "pool":
        others = np.setdiff1d(rows["image_id"].to_numpy(), ids, assume_unique=True)
        ids = np.union1d(ids, first_of(others, max(0, config.makd.pool - len(ids)), config.aspects.seed))
    return rows if len(ids) == rows.num_rows else rows_among(rows, ids)


def learned_from_vectors(run: Run) -> Ids:
    """A set that contains `learned_rows`, known before any image has a vector: the ids of those that may need one."""
    from fgvr.sources.sampling import first_of, split_ids

    config = run.config
    ids = split_ids(run.table("samples"), [config.makd.split])
    return first_of(ids, most_learned(config, run.photos), config.aspects.seed)


def consulted(run: Run) -> tuple[str, ...]:
    """Tables that decide which images students learn from."""
    chosen = scope(run.config, run.photos) != "all" and follows_selection(run.config, run.config.makd.split)
    return ("samples", *(("selected",) if chosen else ()))


def classes_of(run: Run, table: str) -> VectorClassifier:
    """The model beside a table that names images by their vectors."""
    from fgvr.models.head import load_vector_classes
    from fgvr.models.near import load_classes

    folder = storage.fetch_folder(run.table(table).path(MODEL_FOLDER))
    return load_classes(folder) if table == "near" else load_vector_classes(folder)


@per_run
def named_classes(run: Run) -> VectorClassifier:
    """The model whose names are the classes of students without true ones."""
    return classes_of(run, namer(run.config))
