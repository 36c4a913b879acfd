"""embed: compute image vectors. In: samples. Out: the embeddings table (fp16, L2-normalised, one row per image).

    python pipelines/embed.py --clip.model ViT-B-16-quickgelu --clip.pretrained openai --embed.workers.num_gpus 1
    python pipelines/embed.py --embed.vectors.kind timm --embed.vectors.model hf-hub:timm/resnet50.a1_in1k

Vectors are those of CLIP, of any timm encoder, or of a file (`embed.vectors`, docs/encoders.md). An image that cannot
be read gets a row with the reason. A further table `views` holds vectors of augmented views of the discovery images,
where `near.views` needs them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fgvr.config import Clip, ClipVectors, ConfigError, FileVectors, SimulatedVectors, TimmVectors
from fgvr.config.vectors import has_texts
from pipelines.asks import Work, embedded, sampled
from pipelines.command import stage_main
from pipelines.run_tables import Run, per_run, per_samples
from pipelines.stage import RowJob, RowStage
from pipelines.student_images import learned_from_vectors

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.config import Config
    from fgvr.encoders.encoder import EncoderConfig
    from fgvr.tables import Table
    from fgvr.vector_files.vector_rows import MatchedVectors


def vectors_at(config: Config) -> Clip:
    """The CLIP model of all vectors, pinned to its commit; raises ClipError where it does not exist."""
    from fgvr.clip.source import pinned

    return pinned(config.clip)


def encoder_at(config: Config) -> EncoderConfig:
    """The encoder of the embeddings, pinned to its commit: further images must get their vectors from it.

    Raises:
        ConfigError: the vectors are made up, or of a file without an encoder: nothing gives others.
        ClipError, TimmError: it does not exist.
    """
    from fgvr.encoders.encoder import pinned_encoder

    vectors = config.embed.vectors
    match vectors.encoder if isinstance(vectors, FileVectors) else vectors:
        case ClipVectors():
            return vectors_at(config)
        case TimmVectors() as timm:
            return pinned_encoder(timm)
        case _:
            remedy = "; name it as embed.vectors.encoder" if isinstance(vectors, FileVectors) else ""
            raise ConfigError(
                f"embed.vectors.kind = {vectors.kind}: no encoder gives vectors of further images{remedy}"
            )


def check_texts(config: Config, what: str, remedy: str) -> None:
    """Refuse vectors with which no text can be compared.

    Args:
        config: of the run.
        what: what compares them, as the subject of a sentence.
        remedy: what to do instead of setting embed.vectors.kind to clip.
    """
    vectors = config.embed.vectors
    if vectors.made_up:
        raise ConfigError(
            "embed.vectors.kind = simulated: NeaR and the evaluation need CLIP's vectors. Set it to clip, or run "
            "only pipelines/embed.py and pipelines/candidates.py"
        )
    if not has_texts(vectors):
        clip = ", or embed.vectors.encoder.kind if clip.model made them" if isinstance(vectors, FileVectors) else ""
        raise ConfigError(
            f"embed.vectors.kind = {vectors.kind}: {what} compares images with texts, and these vectors have no text "
            f"tower. Set it to clip{clip}, or {remedy}"
        )


class VectorStage(RowStage):
    """A stage that computes vectors of images."""

    checked_once = True

    def check(self, config: Config) -> None:
        """Find the encoder without loading it; raises ClipError or TimmError where it does not exist."""
        from fgvr.clip.source import check_clip_weights, find_clip
        from fgvr.encoders.timm_source import find_timm

        vectors = config.embed.vectors
        match vectors.encoder if isinstance(vectors, FileVectors) else vectors:
            case ClipVectors():
                find_clip(config.clip)
                check_clip_weights(config.clip)
            case TimmVectors() as timm:
                find_timm(timm)
        if isinstance(vectors, FileVectors):
            from fgvr.vector_files.vector_file import open_vectors

            open_vectors(vectors)

    def workers(self, config: Config) -> str | None:
        """The workers of embed, for every table of vectors."""
        return "embed.workers"

    def reads(self, run: Run) -> Iterable[str]:
        """The locations of the images."""
        return ("samples",)

    @abstractmethod
    def which(self, run: Run) -> Ids:
        """Ascending ids of the images to embed."""

    def recipe(self, run: Run) -> dict[str, Any]:
        """The model, the precision, and the preprocessing of images."""
        from fgvr.precision import of_workers

        config = run.config
        return {
            **stated(config),
            "precision": of_workers(config.embed.workers),
            "limits": config.ingest.limits,
            "workers": config.embed.workers,
        }

    def arguments(self, run: Run) -> dict[str, Any]:
        """Arguments of the worker besides the model."""
        return {}

    def job(self, run: Run) -> RowJob:
        """One row per image, with its vector or the concatenated vectors of its views."""
        from fgvr import schemas
        from fgvr.encoders.embed_worker import EmbedWorker

        config = run.config
        arguments = {
            "encoder": encoder_at(config),
            "limits": config.ingest.limits,
            "batch_images": config.embed.batch_images,
            "device": config.embed.workers.device,
            **self.arguments(run),
        }
        return RowJob(self.which(run), EmbedWorker, arguments, schemas.embeddings(self.dim(run)))

    def dim(self, run: Run) -> int:
        """Length of the vector in a row."""
        return encoder_dim(run)

    def settled(self, run: Run, folder: StageFolder) -> Mapping[str, Any]:
        """Keep the precision of the table's first parts: another type of GPU would mix two precisions in one table."""
        from cluster.settled import settled_precision

        workers = run.config.embed.workers
        return {"precision": settled_precision(folder, workers) if workers.num_gpus else None}

    def finish(self, run: Run, summary: StageSummary) -> None:
        """Record what later stages must know about the vectors."""
        summary.extra = {"dim": self.dim(run), "dtype": "float16", **stated(run.config)}


def stated(config: Config) -> dict[str, Any]:
    """The identity of the encoder, as fingerprints and manifests have it; see `fgvr.encoders.identity_of_vectors`."""
    from fgvr.clip.source import find_clip
    from fgvr.encoders.encoder import encoder_identity

    encoder = encoder_at(config)
    return (
        {"clip": find_clip(encoder).identity()} if isinstance(encoder, Clip) else {"encoder": encoder_identity(encoder)}
    )


@per_run
def encoder_dim(run: Run) -> int:
    """Length of a vector of the run's encoder, which is loaded to find out."""
    from fgvr.encoders.encoder import load_encoder

    return load_encoder(encoder_at(run.config)).dim


class Embeddings(VectorStage):
    """Vectors of the images that `embed.splits` and `embed.images` name."""

    table = "embeddings"
    phase = "infer"

    def splits(self, config: Config) -> Iterable[tuple[str, str]]:
        """The splits to embed."""
        return [("embed.splits", split) for split in config.embed.splits or ()]

    def workers(self, config: Config) -> str | None:
        """None for a file of vectors, which is read in this process."""
        return None if isinstance(config.embed.vectors, FileVectors) else super().workers(config)

    def which(self, run: Run) -> Ids:
        """All images of the named splits, or only those that a whole job reads."""
        return _embedded(run)

    def works(self, run: Run) -> Work:
        """One image per row."""
        return Work(embedded(run.config, run.photos))

    def recipe(self, run: Run) -> dict[str, Any]:
        """Also the splits, or the ids of the images where the splits alone do not define them."""
        from cluster.fingerprint import digest_of_ids

        config = run.config
        decides: dict[str, Any] = {"splits": _named(run.table("samples"), config.embed.splits)}
        if config.embed.images == "needed":
            decides["ids"] = digest_of_ids(self.which(run))
        if isinstance(config.embed.vectors, FileVectors):
            from fgvr.vector_files.vector_rows import file_decides

            made_by = {} if config.embed.vectors.encoder is None else stated(config)
            return decides | {"vectors": file_decides(config.embed.vectors), **made_by}
        if not config.embed.vectors.made_up:
            return decides | super().recipe(run)
        more = {"vectors": config.embed.vectors, "limits": config.ingest.limits, "workers": config.embed.workers}
        return decides | more

    def dim(self, run: Run) -> int:
        """Length of the vectors of the encoder, or of the simulated ones."""
        vectors = run.config.embed.vectors
        return vectors.dim if isinstance(vectors, SimulatedVectors) else super().dim(run)

    def job(self, run: Run) -> RowJob:
        """Vectors by the encoder, or simulated ones."""
        from fgvr import schemas
        from fgvr.encoders.embed_worker import SimulatedEmbedWorker

        config, vectors = run.config, run.config.embed.vectors
        if not isinstance(vectors, SimulatedVectors):
            return super().job(run)
        threads = max(2, int(config.embed.workers.num_cpus))
        arguments = {"vectors": vectors, "limits": config.ingest.limits, "threads": threads}
        return RowJob(self.which(run), SimulatedEmbedWorker, arguments, schemas.embeddings(vectors.dim))

    def settled(self, run: Run, folder: StageFolder) -> Mapping[str, Any]:
        """Nothing is settled for simulated vectors."""
        return {} if run.config.embed.vectors.made_up else super().settled(run, folder)

    def finish(self, run: Run, summary: StageSummary) -> None:
        """Record the encoder, except for simulated vectors."""
        if run.config.embed.vectors.made_up:
            summary.extra = {"dim": self.dim(run), "dtype": "float16"}
        else:
            super().finish(run, summary)

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Embed, or read the file of vectors."""
        vectors = run.config.embed.vectors
        return self._read(vectors, run, folder) if isinstance(vectors, FileVectors) else super().compute(run, folder)

    def _read(self, source: FileVectors, run: Run, folder: StageFolder) -> StageSummary:
        from cluster.stage import StageSummary
        from fgvr.failures import Failures
        from fgvr.sources.image_join import folder_of
        from fgvr.vector_files.vector_file import open_vectors
        from fgvr.vector_files.vector_rows import matched

        config, samples = run.config, run.table("samples")
        size = folder.rows_per_part(config.embed.workers.rows_per_part)
        file, ids, failures, parts = open_vectors(source), self.which(run), Failures(), 0
        with matched(file, ids, samples, folder_of(config.ingest.source, run.folder)) as found:
            if source.encoder is not None:
                _probe(config, source, samples, found)
            for rows in found.parts(size):
                folder.write_part(parts, rows)
                failures.add(Failures.in_rows(rows))
                parts += 1
        summary = StageSummary.of(
            len(ids), failures, parts=parts, rows_per_part=size, metrics=found.counts(), remarks=found.remarks()
        )
        summary.extra = {"dim": file.dim, "dtype": "float16", **of_file(config, source)}
        return summary


def of_file(config: Config, source: FileVectors) -> dict[str, Any]:
    """Whose vectors a file holds, as `fgvr.encoders.encoder.identity_of_vectors` reads it from a table's metadata."""
    from fgvr.vector_files.vector_rows import file_decides

    digest = file_decides(source)["file"]
    own = {"encoder": {"kind": "file", "file": digest}}
    return own if source.encoder is None else {**stated(config), "file": digest}


def _probe(config: Config, source: FileVectors, samples: Table, found: MatchedVectors) -> None:
    """Embed a few photos again; raises VectorFileError where the encoder gives them other vectors than the file."""
    import numpy as np

    from fgvr.encoders.encoder import encode_images, load_encoder
    from fgvr.images.read import ImageError, read_image
    from fgvr.vector_files.vector_rows import PROBED, check_encoder

    encoder = load_encoder(encoder_at(config))
    ids, vectors = found.some(PROBED)
    images, read = [], []
    for place, uri in enumerate(samples.take(ids, ["uri"])["uri"].to_pylist()):
        try:
            images.append(read_image(uri, config.ingest.limits, short_side=encoder.short_side))
        except ImageError:
            continue
        read.append(place)
    embedded = encode_images(encoder, images) if images else np.zeros((0, encoder.dim), np.float32)
    check_encoder(source, vectors[read], embedded)


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
    """The images whose vectors a whole job reads: to name them, to train on them, or to evaluate on them."""
    import numpy as np

    from fgvr.sources.sampling import split_ids

    config, samples = run.config, run.table("samples")
    named = pool(run) if config.label.images.chosen else discovered(run)
    return np.union1d(np.union1d(named, learned_from_vectors(run)), split_ids(samples, [config.evaluate.split]))


def discovered(run: Run) -> Ids:
    """Ascending ids of the discovery set: the images that the MLLM names and NeaR learns on.

    Where they are chosen by their vectors, the table `selected` says which they are: a stage that uses them names it
    among the tables that it consults (`chosen_by`).
    """
    return _selected(run) if run.config.label.images.chosen else _drawn(run)


def chosen_by(config: Config) -> tuple[str, ...]:
    """The table that decides the discovery set besides the samples, if there is one."""
    return ("selected",) if config.label.images.chosen else ()


@per_samples
def pool(run: Run) -> Ids:
    """Ascending ids of the images among which those of the discovery set are chosen: no truth and no vector decides."""
    from fgvr.sources.sampling import first_of, split_ids

    images = run.config.label.images
    ids = split_ids(run.table("samples"), [images.drawn_from]) if images.only is None else _listed(run)
    return first_of(ids, images.pool, images.seed)


@per_run
def _selected(run: Run) -> Ids:
    ids: Ids = run.table("selected").read(["image_id"])["image_id"].to_numpy()
    return ids


@per_samples
def _drawn(run: Run) -> Ids:
    from fgvr.sources.sampling import discovery_ids

    columns, images = ["image_id", "split", "class_id"], run.config.label.images
    among = None if images.only is None else _listed(run)
    return discovery_ids(run.table("samples").batches(columns), images, among)


@per_samples
def _listed(run: Run) -> Ids:
    """Ascending ids of the photos that `label.images.only` lists, in the split from which images are drawn."""
    from fgvr.sources.listed import listed_ids, read_listed

    images = run.config.label.images
    place = images.only or ""
    samples = run.table("samples").batches(["image_id", "uri", "split"])
    return listed_ids(samples, read_listed(place), images.drawn_from, place)


def _named(samples: Table, splits: tuple[str, ...] | None) -> list[str] | None:
    """The splits as the fingerprint holds them: a list of all existing splits, in any order, equals "all"."""
    named = sorted(set(splits or ()))
    return None if splits is None or named == sorted(samples.extra["splits"]) else named


@dataclass(frozen=True)
class Drawn:
    """Augmented views per image: their number, the smallest crop as a share of the image's area, and the seed.

    `min_crop` None means the default of `fgvr.images.pixels`.
    """

    count: int
    seed: int
    min_crop: float | None = None


class AugmentedStage(VectorStage):
    """Vectors of augmented views of images, concatenated in one vector per row."""

    @abstractmethod
    def drawn(self, config: Config) -> Drawn:
        """How views are drawn."""

    def recipe(self, run: Run) -> dict[str, Any]:
        """Also the ids of the images, and how their views are drawn."""
        from cluster.fingerprint import digest_of_ids

        drawn = self.drawn(run.config)
        decides = {"ids": digest_of_ids(self.which(run)), "views": drawn.count, "seed": drawn.seed}
        return decides | _min_crop(drawn) | super().recipe(run)

    def works(self, run: Run) -> Work:
        """All views of the discovery images."""
        return Work(sampled(run.config, run.photos), self.drawn(run.config).count)

    def arguments(self, run: Run) -> dict[str, Any]:
        """How views are drawn."""
        drawn = self.drawn(run.config)
        return {"views": drawn.count, "seed": drawn.seed} | _min_crop(drawn)

    def dim(self, run: Run) -> int:
        """Total length over all views."""
        return super().dim(run) * self.drawn(run.config).count


def _min_crop(drawn: Drawn) -> dict[str, float]:
    """The smallest crop, where it is not the default, which older fingerprints do not contain."""
    from fgvr.images.pixels import MIN_CROP

    return {} if drawn.min_crop in {None, MIN_CROP} else {"min_crop": float(drawn.min_crop or 0)}


class Views(AugmentedStage):
    """`near.views` − 1 views of each image on which NeaR trains."""

    table = "views"
    phase = "train"

    def consults(self, run: Run) -> Iterable[str]:
        """The candidates, which decide the images."""
        return ("candidates",)

    def which(self, run: Run) -> Ids:
        """The images with candidates."""
        ids: Ids = run.table("candidates").read(["image_id"])["image_id"].to_numpy()
        return ids

    def drawn(self, config: Config) -> Drawn:
        """As NeaR's recipe says; the image itself counts as its first view."""
        return Drawn(config.near.views - 1, config.near.seed)


if __name__ == "__main__":
    stage_main(__doc__, "embeddings")
