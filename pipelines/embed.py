"""embed: CLIP image vectors. In: samples. Out: the embeddings table (fp16, L2-normalised, one row per image).

    python pipelines/embed.py --clip.model ViT-B-16-quickgelu --clip.pretrained openai --embed.workers.num_gpus 1

Images that cannot be read are rows with a reason. The table `views` has augmented views of the discovery images, where
`near.views` asks for them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fgvr.config import ConfigError, SimulatedVectors
from pipelines.command import stage_main
from pipelines.stage import RowJob, RowStage, Run, per_run, per_samples

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.config import Clip, Config
    from fgvr.tables import Table


def vectors_at(config: Config) -> Clip:
    """The CLIP that all vectors are of, by its commit; raises ClipError where there is none."""
    from fgvr.clip.source import pinned

    return pinned(config.clip)


class VectorStage(RowStage):
    """CLIP vectors of images."""

    checked_once = True

    def check(self, config: Config) -> None:
        """Find the CLIP without loading it; raises ClipError where there is none."""
        from fgvr.clip.source import check_clip_weights, find_clip

        if not config.embed.vectors.made_up:
            find_clip(config.clip)
            check_clip_weights(config.clip)

    def workers(self, config: Config) -> str | None:
        """Those of embed, for every table of vectors."""
        return "embed.workers"

    def reads(self, run: Run) -> Iterable[str]:
        """The images' places."""
        return ("samples",)

    @abstractmethod
    def which(self, run: Run) -> Ids:
        """Ascending ids of the images."""

    def recipe(self, run: Run) -> dict[str, Any]:
        """The model, the precision, and how an image becomes an input."""
        from fgvr.clip.source import find_clip
        from fgvr.precision import of_workers

        config = run.config
        return {
            "clip": find_clip(vectors_at(config)).identity(),
            "precision": of_workers(config.embed.workers),
            "limits": config.ingest.limits,
            "workers": config.embed.workers,
        }

    def arguments(self, run: Run) -> dict[str, Any]:
        """Of the worker besides the model."""
        return {}

    def job(self, run: Run) -> RowJob:
        """One vector per image, or those of its views one behind the other."""
        from fgvr import schemas
        from fgvr.clip.embed_worker import EmbedWorker

        config = run.config
        arguments = {
            "clip": vectors_at(config),
            "limits": config.ingest.limits,
            "batch_images": config.embed.batch_images,
            "device": config.embed.workers.device,
            **self.arguments(run),
        }
        return RowJob(self.which(run), EmbedWorker, arguments, schemas.embeddings(self.dim(run)))

    def dim(self, run: Run) -> int:
        """Numbers in a row's vector."""
        return clip_dim(run)

    def settled(self, run: Run, folder: StageFolder) -> Mapping[str, Any]:
        """The precision with which the table was begun: another kind of GPU would mix two in one table."""
        from cluster.settled import settled_precision

        workers = run.config.embed.workers
        return {"precision": settled_precision(folder, workers) if workers.num_gpus else None}

    def finish(self, run: Run, summary: StageSummary) -> None:
        """What later stages must know of the vectors."""
        from fgvr.clip.source import find_clip

        identity = find_clip(vectors_at(run.config)).identity()
        summary.extra = {"dim": self.dim(run), "dtype": "float16", "clip": identity}


@per_run
def clip_dim(run: Run) -> int:
    """Numbers in a vector of the run's CLIP, which is loaded for it."""
    from fgvr.clip.model import load_clip

    return load_clip(vectors_at(run.config)).dim


class Embeddings(VectorStage):
    """Vectors of the images that `embed.splits` and `embed.images` name."""

    table = "embeddings"
    phase = "infer"

    def splits(self, config: Config) -> Iterable[tuple[str, str]]:
        """Those that are embedded."""
        return [("embed.splits", split) for split in config.embed.splits or ()]

    def which(self, run: Run) -> Ids:
        """Of the named splits; of these all, or those that a whole job reads."""
        return _embedded(run)

    def recipe(self, run: Run) -> dict[str, Any]:
        """Also which splits, or which images, where the splits alone do not name them."""
        from cluster.fingerprint import digest_of_ids

        config = run.config
        decides: dict[str, Any] = {"splits": _named(run.table("samples"), config.embed.splits)}
        if config.embed.images == "needed":
            decides["ids"] = digest_of_ids(self.which(run))
        if not config.embed.vectors.made_up:
            return decides | super().recipe(run)
        more = {"vectors": config.embed.vectors, "limits": config.ingest.limits, "workers": config.embed.workers}
        return decides | more

    def dim(self, run: Run) -> int:
        """Of the CLIP, or as the simulated vectors have it."""
        vectors = run.config.embed.vectors
        return vectors.dim if isinstance(vectors, SimulatedVectors) else clip_dim(run)

    def job(self, run: Run) -> RowJob:
        """By CLIP, or made up by a simulated one."""
        from fgvr import schemas
        from fgvr.clip.embed_worker import SimulatedEmbedWorker

        config, vectors = run.config, run.config.embed.vectors
        if not isinstance(vectors, SimulatedVectors):
            return super().job(run)
        threads = max(2, int(config.embed.workers.num_cpus))
        arguments = {"vectors": vectors, "limits": config.ingest.limits, "threads": threads}
        return RowJob(self.which(run), SimulatedEmbedWorker, arguments, schemas.embeddings(vectors.dim))

    def settled(self, run: Run, folder: StageFolder) -> Mapping[str, Any]:
        """Nothing of simulated vectors."""
        return {} if run.config.embed.vectors.made_up else super().settled(run, folder)

    def finish(self, run: Run, summary: StageSummary) -> None:
        """Simulated vectors are of no CLIP."""
        if run.config.embed.vectors.made_up:
            summary.extra = {"dim": self.dim(run), "dtype": "float16"}
        else:
            super().finish(run, summary)


@per_samples
def _embedded(run: Run) -> Ids:
    import numpy as np

    from fgvr.sources.sampling import split_ids

    samples, splits = run.table("samples"), run.config.embed.splits
    unknown = sorted(split for split in splits or () if split not in samples.extra["splits"])
    if unknown:
        known = ", ".join(sorted(samples.extra["splits"]))
        raise ConfigError(f"embed.splits: no image is in {', '.join(unknown)} (there are: {known})")
    ids = split_ids(samples, splits)
    return np.intersect1d(ids, _needed(run)) if run.config.embed.images == "needed" else ids


def _needed(run: Run) -> Ids:
    """The images whose vectors a whole job reads: named, learned from, or evaluated on."""
    import numpy as np

    from fgvr.sources.sampling import first_of, split_ids

    config, samples = run.config, run.table("samples")
    most = config.aspects.max_images if config.makd.images == "asked" else None
    learned = first_of(split_ids(samples, [config.makd.split]), most, config.aspects.seed)
    return np.union1d(np.union1d(discovered(run), learned), split_ids(samples, [config.evaluate.split]))


@per_samples
def discovered(run: Run) -> Ids:
    """Ascending ids of the discovery set: the images that the MLLM names and NeaR learns on."""
    from fgvr.sources.sampling import discovery_ids

    columns = ["image_id", "split", "class_id"]
    return discovery_ids(run.table("samples").batches(columns), run.config.label.images)


def _named(samples: Table, splits: tuple[str, ...] | None) -> list[str] | None:
    """The splits as they stand in a fingerprint: a list of all that there are is all, in whatever order."""
    named = sorted(set(splits or ()))
    return None if splits is None or named == sorted(samples.extra["splits"]) else named


@dataclass(frozen=True)
class Drawn:
    """Augmented views of an image: how many, from crops of at least which share of its area, drawn by which seed.

    `min_crop` None: that of `fgvr.images.pixels`.
    """

    count: int
    seed: int
    min_crop: float | None = None


class AugmentedStage(VectorStage):
    """Vectors of augmented views of images, one behind the other in a row's vector."""

    @abstractmethod
    def drawn(self, config: Config) -> Drawn:
        """How the views are drawn."""

    def recipe(self, run: Run) -> dict[str, Any]:
        """Also which images, and how their views are drawn."""
        from cluster.fingerprint import digest_of_ids

        drawn = self.drawn(run.config)
        decides = {"ids": digest_of_ids(self.which(run)), "views": drawn.count, "seed": drawn.seed}
        return decides | _min_crop(drawn) | super().recipe(run)

    def arguments(self, run: Run) -> dict[str, Any]:
        """How views are drawn."""
        drawn = self.drawn(run.config)
        return {"views": drawn.count, "seed": drawn.seed} | _min_crop(drawn)

    def dim(self, run: Run) -> int:
        """Of all views."""
        return super().dim(run) * self.drawn(run.config).count


def _min_crop(drawn: Drawn) -> dict[str, float]:
    """Where it is another one than that of all views of before, which stands in no fingerprint."""
    from fgvr.images.pixels import MIN_CROP

    return {} if drawn.min_crop in {None, MIN_CROP} else {"min_crop": float(drawn.min_crop or 0)}


class Views(AugmentedStage):
    """`near.views` − 1 views of each image that NeaR learns on."""

    table = "views"
    phase = "train"

    def consults(self, run: Run) -> Iterable[str]:
        """Which images."""
        return ("candidates",)

    def which(self, run: Run) -> Ids:
        """Those with candidates."""
        ids: Ids = run.table("candidates").read(["image_id"])["image_id"].to_numpy()
        return ids

    def drawn(self, config: Config) -> Drawn:
        """By NeaR's recipe; the image itself is the first of its views."""
        return Drawn(config.near.views - 1, config.near.seed)


if __name__ == "__main__":
    stage_main(__doc__, "embeddings")
