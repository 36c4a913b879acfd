"""distill_encoder: make a small encoder from another one's vectors. In: samples, embeddings. Out: an encoder's folder.

    python pipelines/distill_encoder.py --embed.vectors.kind file --embed.vectors.path vectors.npz
    python pipelines/distill_encoder.py --distill.teacher.kind timm --distill.teacher.model hf-hub:timm/resnet50.a1_in1k

The teacher is the table `embeddings`, or a network (`distill.teacher`): then the student sees the same crops and also
learns feature maps. No labels are used. The table `encoder` has one row per image: whether it was held out, and the
reason if it was left out. Beside it: `model/`, which `embed.vectors.model` takes (docs/encoders.md), `history.json`.
Not part of full.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fgvr.config import ClipVectors, Config, ConfigError, TimmVectors
from pipelines.asks import Work
from pipelines.command import stage_main
from pipelines.embed import vectors_at
from pipelines.run_tables import Run
from pipelines.train_stage import Training, TrainStage

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from cluster.stage import StageFolder, StageSummary
    from fgvr.encoders.encoder import EncoderConfig
    from fgvr.models.distilled import DistilledSpec
    from fgvr.training.encoder_examples import EncoderSet


HELD_SHARE = 10
"""At most one image in so many is held out."""


class Encoder(TrainStage):
    """A small encoder that gives another one's vectors: one row per image that it learned from."""

    table = "encoder"
    logs_model = False

    def check(self, config: Config) -> None:
        """Check the teacher and the backbone, and that no evaluated image is learned from."""
        from fgvr.models.distilled import build_backbone

        distill = config.distill
        if distill.split == config.evaluate.split:
            raise ConfigError(
                f"distill.split = {distill.split}: the encoder would learn from the images of evaluate.split"
            )
        if not distill.by_network and config.embed.vectors.made_up:
            raise ConfigError("embed.vectors.kind = simulated: nothing can be learned from made-up vectors")
        _find_teacher(config)
        build_backbone(_spec(config))

    def splits(self, config: Config) -> Iterable[tuple[str, str]]:
        """The split to learn from."""
        return [("distill.split", config.distill.split)]

    def workers(self, config: Config) -> str | None:
        """The training workers."""
        return "distill.workers"

    def reads(self, run: Run) -> Iterable[str]:
        """The locations of the images, and their vectors where these teach."""
        return ("samples",) if run.config.distill.by_network else ("samples", "embeddings")

    def works(self, run: Run) -> Work:
        """The images, in every epoch."""
        distill = run.config.distill
        return Work(run.photos.bounded(distill.split, distill.max_images), distill.epochs)

    def recipe(self, run: Run) -> dict[str, Any]:
        """The training recipe, and what identifies a teacher that is a network."""
        from fgvr.encoders.encoder import encoder_identity
        from fgvr.precision import of_workers
        from fgvr.training.encoder import RECIPE

        config, distill = run.config, run.config.distill
        teacher = _teacher(config)
        resolved = {
            "min_crop": distill.smallest_crop,
            "spatial_weight": distill.spatial,
            "masked_weight": distill.masked,
            "teacher": distill.teacher.kind,  # which network it is stands beside it
        }
        return {
            "version": RECIPE,
            "recipe": distill.deciding() | resolved,
            "teacher": None if teacher is None else encoder_identity(teacher),
            "precision": of_workers(distill.workers),
            "limits": config.ingest.limits,
        }

    def training(self, run: Run, folder: StageFolder) -> Training:
        """Write images and vectors to files that all workers read."""
        from fgvr.encoders.encoder import encoder_identity, identity_of_vectors
        from fgvr.training.encoder import train_encoder
        from fgvr.training.encoder_data import EncoderJob

        config, distill = run.config, run.config.distill
        teacher, found = _teacher(config), _examples(run)
        identity = identity_of_vectors(run.table("embeddings")) if teacher is None else encoder_identity(teacher)
        job = EncoderJob(
            examples=folder.path("examples"),
            spec=_spec(config),
            settings=distill,
            limits=config.ingest.limits,
            teacher=teacher,
            identity=identity,
            max_error_share=config.run.max_error_share,
        )
        found.examples.write(job.examples)
        return Training(train_encoder, job, distill.epochs, found)

    def rows(self, run: Run, training: Training, checkpoint: Path) -> pa.Table:
        """Whether an image was held out, or why it was left out."""
        from fgvr.training.checkpoint import read_left_out

        found: EncoderSet = training.made_of
        return found.table(read_left_out(checkpoint))

    def finish(self, run: Run, training: Training, checkpoint: Path, rows: pa.Table, summary: StageSummary) -> None:
        """Record how many images were learned from and left out."""
        from fgvr.training.checkpoint import read_left_out, read_lost, reasons

        found: EncoderSet = training.made_of
        lost, examples = read_lost(checkpoint), found.examples
        summary.metrics |= {"lost": float(len(lost)), "without_vector": float(len(found.refused))}
        summary.extra = {
            "images": len(examples) - len(read_left_out(checkpoint)),
            "held_out": int(examples.held_out.sum()),
            "without_vector": len(found.refused),
            "teacher": dict(training.job.identity),
            "lost": reasons(lost),
        }


def _spec(config: Config) -> DistilledSpec:
    """The configured student; raises DistilledError for a backbone that timm does not have."""
    from fgvr.models.distilled import DistilledSpec

    distill = config.distill
    return DistilledSpec.of(distill.backbone, distill.image_size, distill.resize, distill.backbone_args)


def _find_teacher(config: Config) -> None:
    """Look whether a teaching network is there, without loading it; raises ClipError or ConfigError."""
    from fgvr.clip.source import check_clip_weights, find_clip
    from fgvr.encoders.timm_source import TimmError, find_timm

    match config.distill.teacher:
        case ClipVectors():
            find_clip(config.clip)
            check_clip_weights(config.clip)
        case TimmVectors() as timm:
            try:
                find_timm(timm)
            except TimmError as error:
                raise ConfigError(str(error).replace("embed.vectors.", "distill.teacher.")) from error


def _teacher(config: Config) -> EncoderConfig | None:
    """The network that teaches, pinned to its commit; None where stored vectors do."""
    from fgvr.encoders.encoder import pinned_encoder

    match config.distill.teacher:
        case ClipVectors():
            return vectors_at(config)
        case TimmVectors() as timm:
            return pinned_encoder(timm)
        case _:
            return None


def _examples(run: Run) -> EncoderSet:
    """The images to learn from; raises EncoderTrainingError where none has a vector."""
    from fgvr.sources.sampling import first_of, split_ids
    from fgvr.training.encoder_examples import EncoderSet, encoder_examples, with_vectors

    distill, samples = run.config.distill, run.table("samples")
    ids = split_ids(samples, [distill.split])
    embeddings = None if distill.by_network else run.table("embeddings")
    usable, refused = (ids, {}) if embeddings is None else with_vectors(ids, embeddings)
    chosen = first_of(usable, distill.max_images, distill.seed)
    # Another seed than that of the sample: else a larger sample would hold out images of a smaller one alone.
    held_out = first_of(chosen, min(distill.held_out, len(chosen) // HELD_SHARE), distill.seed + 1)
    return EncoderSet(encoder_examples(chosen, held_out, samples, embeddings), refused)


if __name__ == "__main__":
    stage_main(__doc__, "encoder")
