"""Sources with boxes: COCO annotation files, and drawn scenes, which are stored as such files."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from fgvr import storage
from fgvr.config.data import BirdScenesSource, CocoSource
from fgvr.detection.coco import CocoSet, read_coco
from fgvr.sources.allowed_places import AllowedPlaces
from fgvr.sources.field_guide import SETTINGS, drawn_with
from fgvr.sources.rows import SourceError, chunk

log = logging.getLogger(__name__)

COCO_ID = "coco_image_id"
"""Key in the samples' metadata, beside width and height: the image's id in its annotations file."""


@dataclass(frozen=True)
class CocoFiles:
    """URIs of a split's annotations file and of its image folder."""

    annotations: str
    images: str

    def read(self) -> CocoSet:
        """The cleaned annotations; raises CocoError."""
        return read_coco(self.annotations)


def coco_files(source: CocoSource | BirdScenesSource, run_folder: str) -> dict[str, CocoFiles]:
    """The files of the train and test splits."""
    if isinstance(source, BirdScenesSource):
        root = _scenes_folder(source, run_folder)
        names = {split: (f"annotations/{split}.json", split) for split in ("train", "test")}
    else:
        root = storage.absolute(source.path)
        names = {
            "train": (source.train_annotations, source.train_images),
            "test": (source.test_annotations, source.test_images),
        }
    return {split: CocoFiles(*(storage.join(root, name) for name in pair)) for split, pair in names.items()}


def read_coco_source(
    source: CocoSource | BirdScenesSource, run_folder: str, allowed_roots: Sequence[str] = ()
) -> tuple[list[pa.Table], list[str]]:
    """Chunks of the listed images, and notes on annotations that were left out; draws missing scenes first.

    Images outside the source's folder fail, unless they are below one of `allowed_roots` (`ingest.limits`).

    Raises:
        SourceError: the folder holds scenes drawn with other settings, or other files.
        CocoError: an annotations file is missing or invalid.
    """
    if isinstance(source, BirdScenesSource):
        _drawn(source, _scenes_folder(source, run_folder))
    chunks, remarks = [], []
    for split, files in coco_files(source, run_folder).items():
        listed = files.read()
        own = files.images if isinstance(source, BirdScenesSource) else storage.absolute(source.path)
        allowed = AllowedPlaces(files.annotations, own, allowed_roots, lists_own_files=True)
        uris = pa.array([storage.join(files.images, image.file_name) for image in listed.images], pa.large_string())
        for reason, count in listed.left_out.items():
            remarks.append(f"{files.annotations}: {count} entries left out ({reason.value})")
        chunks.append(
            chunk(
                uri=allowed.checked(uris),
                split=[split] * len(listed.images),
                metadata=[
                    json.dumps({COCO_ID: image.id, "width": image.width, "height": image.height})
                    for image in listed.images
                ],
            )
        )
        remarks += allowed.remarks()
    return chunks, remarks


def _scenes_folder(source: BirdScenesSource, run_folder: str) -> str:
    """The scenes' folder: `source.draw_to`, else a folder in the run named after the settings."""
    if source.draw_to is not None:
        return storage.absolute(source.draw_to)
    digest = hashlib.sha256(json.dumps(_settings(source), sort_keys=True).encode()).hexdigest()[:8]
    return storage.join(run_folder, "bird_scenes", digest)


def _settings(source: BirdScenesSource) -> dict[str, object]:
    return source.model_dump(mode="json", exclude={"kind", "draw_to"})


def check_scenes(source: BirdScenesSource, folder: str) -> None:
    """Raises SourceError if scenes can neither be read from `folder` nor drawn into it."""
    wanted = _settings(source)
    drawn = drawn_with(folder, wanted, "scenes with birds") or wanted
    if drawn != wanted:
        differing = ", ".join(f"{key} {drawn[key]}" for key in wanted if drawn[key] != wanted[key])
        raise SourceError(
            f"ingest.source.draw_to = {folder}: the scenes there were drawn with {differing}; name another folder or "
            "remove this one"
        )


def _drawn(source: BirdScenesSource, folder: str) -> None:
    """Draw the scenes unless they exist; a split's annotations are written last and mark that it is complete."""
    from fgvr.demo.bird_scenes import SceneSettings, write_scenes

    if source.draw_to is not None:
        check_scenes(source, folder)
    counts = {"train": source.train_scenes, "test": source.test_scenes}
    missing = {
        split: count
        for split, count in counts.items()
        if not storage.exists(storage.join(folder, "annotations", f"{split}.json"))
    }
    if not missing:
        return
    log.info("ingest: drawing %s scenes with birds into %s", f"{sum(missing.values()):,}", folder)
    storage.write_bytes(storage.join(folder, SETTINGS), json.dumps(_settings(source), indent=1).encode())
    settings = SceneSettings(source.size, source.birds, source.classes, source.difficulty, source.seed)
    write_scenes(folder, settings, missing)
