"""The discovery set: the images that the multimodal LLM names and NeaR learns on."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgvr.config.data import Discovery
from fgvr.errors import UserError

log = logging.getLogger(__name__)


class DiscoveryError(UserError, ValueError):
    """A discovery set that cannot be drawn from these samples."""


def discovery_ids(samples: pa.Table, config: Discovery) -> npt.NDArray[np.int64]:
    """Ascending image ids of the discovery set: int64 [n]. The same seed draws the same images.

    Args:
        samples: columns image_id, split, class_id.
        config: which split, and m images of every true class or so many of all.

    Raises:
        DiscoveryError: the split is empty, or `per_class` is asked for without true classes.
    """
    rows = samples.filter(pc.equal(samples["split"], config.drawn_from))
    ids = np.sort(rows["image_id"].to_numpy())
    if not len(ids):
        known = ", ".join(sorted(pc.unique(samples["split"]).to_pylist())) or "none, there are no samples"
        field = "legacy_discovery_split: test" if config.legacy_discovery_split else f"split = {config.split}"
        raise DiscoveryError(f"label.images.{field}: no image is in this split (there are: {known})")
    if config.per_class is not None:
        absent = pc.count_distinct(samples["class_id"]).as_py() - pc.count_distinct(rows["class_id"]).as_py()
        if absent:
            log.warning("%d classes have no image in the split %r", absent, config.drawn_from)
        return _per_class(rows.sort_by("image_id"), config.per_class, config.seed)
    if config.max_images is None or config.max_images >= len(ids):
        return ids
    return np.sort(np.random.default_rng(config.seed).choice(ids, size=config.max_images, replace=False))


def _per_class(rows: pa.Table, shots: int, seed: int) -> npt.NDArray[np.int64]:
    """The m-shot benchmark protocol: `shots` images of every true class (all of a class that has fewer)."""
    known = rows.filter(pc.is_valid(rows["class_id"]))
    if not known.num_rows:
        raise DiscoveryError(
            "label.images.per_class needs true classes, and these samples have none: set label.images.max_images"
        )
    # Sorted once, the images of a class stand side by side: looking through all images for each of 20,000 classes took
    # as long as a million rows of everything else.
    classes, ids = known["class_id"].to_numpy(), known["image_id"].to_numpy()
    order = np.argsort(classes, kind="stable")
    names, first = np.unique(classes[order], return_index=True)
    chosen: list[npt.NDArray[np.int64]] = []
    fewer = 0
    for class_id, own in zip(names, np.split(ids[order], first[1:]), strict=True):
        fewer += len(own) < shots
        # A stream of its own: adding a class does not change the draw of another.
        draw = np.random.default_rng([seed, int(class_id)])
        chosen.append(own if len(own) <= shots else draw.choice(own, size=shots, replace=False))
    if fewer:
        log.warning("%d classes have fewer than label.images.per_class = %d images", fewer, shots)
    return np.sort(np.concatenate(chosen))
