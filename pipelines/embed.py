"""embed: CLIP image vectors. In: samples. Out: the embeddings table (fp16, L2-normalised, one row an image).

    python pipelines/embed.py --clip.model ViT-B-16-quickgelu --clip.pretrained openai --embed.workers.num_gpus 1

Images that cannot be read are rows with a reason. `views` computes augmented views of the discovery images, if
`near.views` asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from cluster.parts import PartJob
from cluster.settled import settled_precision
from cluster.stage import RunContext, StageFolder, StageSummary, digest_of_ids
from fgvr import schemas
from fgvr.clip.embed_worker import EmbedWorker
from fgvr.clip.model import load_clip
from fgvr.clip.simulated_worker import SimulatedEmbedWorker
from fgvr.clip.source import find_clip, pinned
from fgvr.config import Config, ConfigError, SimulatedVectors
from fgvr.config.models import ClipVectors
from fgvr.crops import MIN_CROP
from fgvr.discovery import discovery_ids
from fgvr.precision import of_workers
from fgvr.splits import first_of, split_ids
from fgvr.tables import Table
from pipelines.flow import stage_main

Ids = npt.NDArray[np.int64]


def run(context: RunContext, samples: Table) -> Table:
    """Vectors of the images that `embed.splits` and `embed.images` name; raises ClipError where there is no CLIP."""
    splits, vectors = context.config.embed.splits, context.config.embed.vectors
    ids = _ids(samples, splits)
    if context.config.embed.images == "needed":
        ids = np.intersect1d(ids, _needed(context.config, samples))
    match vectors:
        case SimulatedVectors():
            return _simulated(context, samples, ids, vectors)
        case ClipVectors():
            decides = {"splits": _named(samples, splits)} | _which(context.config, ids)
            return _vectors(context, "embeddings", samples, ids, decides=decides)
    assert_never(vectors)


def _needed(config: Config, samples: Table) -> Ids:
    """The images whose vectors a whole job reads: named, learned from, or evaluated on."""
    named = discovery_ids(samples.batches(["image_id", "split", "class_id"]), config.label.images)
    most = config.aspects.max_images if config.makd.images == "asked" else None
    learned = first_of(split_ids(samples, [config.makd.split]), most, config.aspects.seed)
    return np.union1d(np.union1d(named, learned), split_ids(samples, [config.evaluate.split]))


def _which(config: Config, ids: Ids) -> dict[str, Any]:
    """What names the images in a fingerprint where the splits alone do not."""
    return {"ids": digest_of_ids(ids)} if config.embed.images == "needed" else {}


@dataclass(frozen=True)
class Views:
    """Augmented views of an image: how many, from crops of at least which share of its area, drawn by which seed."""

    count: int
    seed: int
    min_crop: float = MIN_CROP


def run_views(context: RunContext, samples: Table, ids: Ids) -> Table:
    """Vectors of `near.views` − 1 augmented views of the images `ids`, one behind the other in a row's vector."""
    return augmented(context, "views", samples, ids, Views(context.config.near.views - 1, context.config.near.seed))


def augmented(context: RunContext, name: str, samples: Table, ids: Ids, views: Views) -> Table:
    """Vectors of augmented views of the images `ids` as the table `name`, one behind the other in a row's vector."""
    decides = {"ids": digest_of_ids(ids), "views": views.count, "seed": views.seed}
    if views.min_crop != MIN_CROP:
        decides["min_crop"] = views.min_crop
    return _vectors(context, name, samples, ids, decides=decides, views=views)


def _vectors(
    context: RunContext, name: str, samples: Table, ids: Ids, *, decides: dict[str, Any], views: Views | None = None
) -> Table:
    config = context.config
    clip = pinned(config.clip)
    source = find_clip(clip)

    def compute(folder: StageFolder) -> StageSummary:
        dim = load_clip(clip).dim * (1 if views is None else views.count)
        arguments: dict[str, Any] = {
            "clip": clip,
            "limits": config.ingest.limits,
            "batch_images": config.embed.batch_images,
            "device": config.embed.workers.device,
            "precision": settled_precision(folder, config.embed.workers) if config.embed.workers.num_gpus else None,
        }
        if views is not None:
            arguments |= {"views": views.count, "seed": views.seed, "min_crop": views.min_crop}
        schema = schemas.embeddings(dim)
        job = PartJob(name, folder.uri, EmbedWorker, arguments, schema, samples, config.embed.workers)
        summary = folder.run_parts(job, ids)
        summary.extra = {"dim": dim, "dtype": "float16", "clip": source.identity()}
        return summary

    decides = decides | {
        "clip": source.identity(),
        "precision": of_workers(config.embed.workers),
        "limits": config.ingest.limits,
        "workers": config.embed.workers,
    }
    return context.stage(name, decides=decides, inputs=[samples], compute=compute, workers=config.embed.workers)


def _simulated(context: RunContext, samples: Table, ids: Ids, vectors: SimulatedVectors) -> Table:
    config = context.config
    arguments = {
        "vectors": vectors,
        "limits": config.ingest.limits,
        "threads": max(2, int(config.embed.workers.num_cpus)),
    }

    def compute(folder: StageFolder) -> StageSummary:
        schema = schemas.embeddings(vectors.dim)
        job = PartJob("embeddings", folder.uri, SimulatedEmbedWorker, arguments, schema, samples, config.embed.workers)
        summary = folder.run_parts(job, ids)
        summary.extra = {"dim": vectors.dim, "dtype": "float16"}
        return summary

    decides = {
        "splits": _named(samples, config.embed.splits),
        **_which(config, ids),
        "vectors": vectors,
        "limits": config.ingest.limits,
        "workers": config.embed.workers,
    }
    return context.stage("embeddings", decides=decides, inputs=[samples], compute=compute)


def _named(samples: Table, splits: tuple[str, ...] | None) -> list[str] | None:
    """The splits as they stand in a fingerprint: a list of all that there are is all, in whatever order."""
    named = sorted(set(splits or ()))
    return None if splits is None or named == sorted(samples.extra["splits"]) else named


def _ids(samples: Table, splits: tuple[str, ...] | None) -> Ids:
    unknown = sorted(split for split in splits or () if split not in samples.extra["splits"])
    if unknown:
        known = ", ".join(sorted(samples.extra["splits"]))
        raise ConfigError(f"embed.splits: no image is in {', '.join(unknown)} (there are: {known})")
    return split_ids(samples, splits)


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: flow.embeddings)
