"""infer: classify photos with a trained model. In: samples, a model folder. Out: the predictions table.

    python pipelines/infer.py --infer.model runs/birds/tables/makd/<fingerprint>/model --infer.split test

One row per image: label, score, the top five, whether the score is below `infer.abstain_below`, and p(yes) of the
aspect questions if the model predicts them. `infer.model` null means the model of this run that `infer.trained` names:
the student with aspects, or another one. With `infer.costs` the label is the one that expects the least cost, and with
`hierarchy.decide` it is chosen in a tree of kinds, whose level the column `level` names. With `infer.target_precision`
the tables `calibration` and `decided` follow: which names keep a promised precision, and who decides about the rest.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from fgvr import storage
from fgvr.config import Config, ConfigError
from fgvr.digests import digest_of_files, folder_files
from pipelines.asks import Work
from pipelines.command import stage_main
from pipelines.kinds import check_kinds, tree_rule, tree_tables
from pipelines.run_tables import Run
from pipelines.stage import Phase, RowJob, RowStage
from pipelines.train_stage import MODEL_FOLDER

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.heads.costs import CostFile
    from fgvr.hierarchy.decisions import TreeRule
    from fgvr.models.infer import InferSettings
    from fgvr.tables import Table


class PredictionStage(RowStage):
    """A stage in which a trained student classifies images.

    Attributes:
        trained: the table of the stage that trained it.
    """

    phase: ClassVar[Phase | None] = None
    trained = "makd"

    def workers(self, config: Config) -> str | None:
        """The workers of infer."""
        return "infer.workers"

    def reads(self, run: Run) -> Iterable[str]:
        """The locations of the images, the model, and what decides in a tree."""
        return ("samples", self.trained, *tree_tables(run.config))

    @abstractmethod
    def which(self, run: Run) -> Ids:
        """Ascending ids of the images to classify."""

    def model_folder(self, run: Run) -> str:
        """URI of the model folder."""
        return run.table(self.trained).path(MODEL_FOLDER)

    def settings(self, run: Run) -> InferSettings:
        """The settings of the inference workers."""
        from fgvr.models.infer import InferSettings

        config = run.config.infer
        return InferSettings(
            model=self.model_folder(run),
            limits=run.config.ingest.limits,
            abstain_below=config.abstain_below,
            batch_images=config.batch_images,
            device="cuda" if config.workers.num_gpus else "cpu",
            threads=max(1, int(config.workers.num_cpus)),
            costs=costs_at(run),
        )

    def recipe(self, run: Run) -> dict[str, Any]:
        """The preprocessing of photos, the device, and the ids of the images."""
        from cluster.fingerprint import digest_of_ids
        from fgvr.models.infer import READING

        config = run.config.infer
        return {
            "limits": run.config.ingest.limits,
            "reading": READING,
            "device": config.workers.device,
            "abstain_below": config.abstain_below,
            "workers": config.workers,
            "ids": digest_of_ids(self.which(run)),
            **stated_costs(run),
        }

    def job(self, run: Run) -> RowJob:
        """One row per image, with its prediction."""
        from fgvr.models.infer import InferWorker, predictions_schema

        settings = self.settings(run)
        columns = ("image_id", "uri", *(("metadata",) if model_columns(settings.model) else ()))
        schema = predictions_schema(settings.costs, energy=settings.energy)
        return RowJob(self.which(run), InferWorker, {"settings": settings}, schema, columns)

    def settled(self, run: Run, folder: StageFolder) -> Mapping[str, Any]:
        """Keep the precision of the table's first parts, where devices differ in it."""
        from cluster.settled import settled_precision

        settings, workers = self.settings(run), run.config.infer.workers
        begun = settled_precision(folder, workers) if _depends_on_device(settings) else None
        return {"settings": replace(settings, begun=begun)}

    def finish(self, run: Run, summary: StageSummary) -> None:
        """Record the model, and say which columns it misses."""
        summary.extra = {"model": self.model_folder(run)}
        columns = model_columns(self.model_folder(run))
        if columns:
            lacking = lacking_columns(run.table("samples"), self.which(run), columns)
            summary.extra |= {"metadata_columns": columns, "metadata_missing": lacking}
            summary.remarks = (*summary.remarks, *said_of(lacking, len(self.which(run))))


class Predictions(PredictionStage):
    """Predictions for the configured samples, by the configured model or one of this run."""

    table = "predictions"

    def check(self, config: Config) -> None:
        """Read the files of the configured model and of the costs; raises UserError where there are none."""
        if config.infer.model is not None:
            identity_of(storage.absolute(config.infer.model))
            _check_encoder(config.infer.model)
            _check_tree(config)
        if config.infer.trained == "base" and not config.makd.base:
            raise ConfigError("infer.trained = base: makd.base is false, so that this student is not trained")
        check_costs(config)

    def splits(self, config: Config) -> Iterable[tuple[str, str]]:
        """The split to classify."""
        return [] if config.infer.split is None else [("infer.split", config.infer.split)]

    def reads(self, run: Run) -> Iterable[str]:
        """The locations of the images, and this run's model where no other one is given; for heads the vectors, too."""
        config = run.config.infer
        if config.model is not None:
            return ("samples",)
        vectors = ("embeddings",) if _of_vectors(run.config) else ()
        return ("samples", config.trained, *vectors, *tree_tables(run.config))

    def which(self, run: Run) -> Ids:
        """The images of `infer.split`, or all."""
        return image_ids(run.table("samples"), run.config.infer.split)

    def works(self, run: Run) -> Work:
        """The images of `infer.split`, or all."""
        split, photos = run.config.infer.split, run.photos
        return Work(photos.total if split is None else photos.splits.get(split, 0))

    def made(self, run: Run, table: Table) -> None:
        """Write the predictions as files beside the report, with the photos' URIs."""
        from pipelines.take_home import write_predictions

        write_predictions(run, table)

    def model_folder(self, run: Run) -> str:
        """The configured model folder, or that of this run's model."""
        config = run.config.infer
        return run.table(config.trained).path(MODEL_FOLDER) if config.model is None else storage.absolute(config.model)

    def recipe(self, run: Run) -> dict[str, Any]:
        """Also the content of a given model's files, or which model of the run it is."""
        config = run.config.infer
        if config.model is not None:
            own = {"model": identity_of(storage.absolute(config.model))}
            return super().recipe(run) | own | ({"energy": True} if config.drift.measure else {})
        # Newer fields count only where they are used: earlier versions had the student with aspects alone.
        newer = {} if config.trained == "makd" else {"trained": config.trained}
        return super().recipe(run) | newer | ({"energy": True} if config.drift.measure else {})

    def settings(self, run: Run) -> InferSettings:
        """With the energy of the logits where photos are compared with those of training."""
        return replace(super().settings(run), energy=run.config.infer.drift.measure)

    def job(self, run: Run) -> RowJob:
        """One row per image; heads use the stored vectors and read the other images."""
        job = super().job(run)
        if not _of_vectors(run.config):
            return job
        from fgvr.models.from_features import StoredVectorWorker

        arguments = {**job.arguments, "embeddings": run.table("embeddings").uri}
        return replace(job, worker=StoredVectorWorker, arguments=arguments)


def inferred(config: Config) -> tuple[str, ...]:
    """The tables of the script: the predictions, and who decides about them where a precision is promised."""
    return ("predictions",) if config.infer.target_precision is None else ("predictions", "decided")


def _check_encoder(model: str) -> None:
    """Refuse a head that cannot classify photos; raises ConfigError."""
    from fgvr.models.base import MODEL_FILE

    try:
        facts = json.loads(storage.read_bytes(storage.join(storage.absolute(model), MODEL_FILE)))
    except ValueError:
        return  # damaged: the loader says more
    if isinstance(facts, dict) and facts.get("kind") == "head" and facts.get("encoder", "") is None:
        raise ConfigError(
            f"infer.model = {model}: a head of vectors from a file, and nothing says how photos get such vectors. "
            "Classify in its own run (infer.trained), whose vectors are stored, or make it again with "
            "embed.vectors.encoder"
        )


def _of_vectors(config: Config) -> bool:
    """Whether a head of this run classifies, whose vectors are stored."""
    return config.infer.model is None and config.infer.trained in {"label_prototypes", "heads"}


def _check_tree(config: Config) -> None:
    """Refuse a tree of this run's names for a model of other ones; raises ConfigError."""
    if tree_tables(config):
        raise ConfigError(
            f"hierarchy.source = mllm: with infer.model = {config.infer.model} the kinds would be asked for this run's "
            "names, and not for the model's. Set hierarchy.source to file, and hierarchy.path to the parents.csv that "
            "lies beside the table `parents` of the model's run"
        )


def check_costs(config: Config) -> None:
    """Check the costs by the config alone, as `costs_at` reads them; raises a UserError."""
    if _costs_without_tree(config) is None and config.hierarchy.decide != "most_probable":
        check_kinds(config)


def costs_at(run: Run) -> CostFile | TreeRule | None:
    """The costs of mistakes, None where none are configured; raises a UserError for a file that means nothing."""
    costs = _costs_without_tree(run.config)
    return tree_rule(run) if costs is None and run.config.hierarchy.decide != "most_probable" else costs


def _costs_without_tree(config: Config) -> CostFile | None:
    costs, groups = config.infer.costs, config.infer.cost_groups
    decide = config.hierarchy.decide
    if decide != "most_probable" and costs is not None:
        raise ConfigError(
            f"hierarchy.decide = {decide}: infer.costs says what mistakes cost, too; leave one of the two out"
        )
    if costs is None:
        if groups is not None:
            raise ConfigError("infer.cost_groups are groups for infer.costs, which is not given")
        return None
    from fgvr.heads.costs import read_costs

    return read_costs(storage.absolute(costs), groups and storage.absolute(groups))


def stated_costs(run: Run) -> dict[str, Any]:
    """The costs as fingerprints hold them, by content; nothing where none are configured."""
    costs = costs_at(run)
    return {} if costs is None else {"costs": costs.stated()}


def model_columns(model: str) -> list[str]:
    """Columns of metadata that the model in a folder sees beside the photo; mostly none."""
    from fgvr.models.base import MODEL_FILE

    facts = json.loads(storage.read_bytes(storage.join(model, MODEL_FILE))).get("metadata") or {"columns": []}
    return list(dict.fromkeys(name for each in facts["columns"] for name in each["column"]["sources"]))


def lacking_columns(samples: Table, ids: Ids, columns: list[str]) -> dict[str, int]:
    """How many photos have no value, by column."""
    from fgvr.metadata.stored import metadata_batches

    counts = dict.fromkeys(columns, 0)
    for rows in metadata_batches(samples, ids, columns):
        for column in columns:
            counts[column] += rows[column].null_count
    return counts


def said_of(lacking: Mapping[str, int], count: int) -> tuple[str, ...]:
    """One remark about all columns that some photos lack; none where all have all."""
    some = {column: number for column, number in lacking.items() if number}
    if not some:
        return ()
    each = ", ".join(f"{column} in {number:,}" for column, number in some.items())
    advice = ""
    if any(number == count for number in some.values()):
        advice = "; name columns that the source has in ingest.source.metadata_columns"
    return (f"the model sees columns that are missing ({each} of {count:,} photos), and does without there{advice}",)


def _depends_on_device(settings: InferSettings) -> bool:
    """Whether the precision of predictions may differ between the devices of the workers."""
    from fgvr.models.base import MODEL_FILE

    facts = json.loads(storage.read_bytes(storage.join(settings.model, MODEL_FILE)))
    return settings.device == "cuda" or facts.get("precision") == "bf16"


def image_ids(samples: Table, split: str | None) -> Ids:
    """Ids of a split's images, ascending; of all images for None. Raises ConfigError where the split is empty."""
    from fgvr.sources.sampling import split_ids

    ids = split_ids(samples, None if split is None else [split])
    if not len(ids):
        known = ", ".join(sorted(samples.extra["splits"]))
        raise ConfigError(f"infer.split = {split}: no image is in this split (there are: {known})")
    return ids


def identity_of(model: str) -> str:
    """Hash of the files of a model folder, so that a model retrained under the same name counts as another model."""
    from fgvr.models.base import MODEL_FILE, WEIGHTS_FILE

    digest, described = hashlib.sha256(), b""
    for name in (MODEL_FILE, WEIGHTS_FILE):
        try:
            content = storage.read_bytes(storage.join(model, name))
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigError(f"infer.model = {model}: it has no {name}, so it is not a trained model") from None
        described = content if name == MODEL_FILE else described
        digest.update(content)
    others = {name: mark for name, mark in folder_files(model).items() if name not in {MODEL_FILE, WEIGHTS_FILE}}
    if others and not _is_stated(others, described, local=storage.is_local(model)):
        digest.update(json.dumps(sorted(others.items())).encode())
    return digest.hexdigest()


def _is_stated(others: Mapping[str, str], model_file: bytes, *, local: bool) -> bool:
    """Whether the other files are the CLIP (in clip/) that `model.json`, which counts already, says was put there.

    Of an object store the marks of files are not their contents: there the place alone tells.
    """
    try:
        facts = json.loads(model_file)
        stated = (facts.get("encoder") or facts["clip"])["identity"]["files"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    if not local:
        return bool(stated) and all(name.startswith("clip/") for name in others)
    return bool(stated == digest_of_files({name.removeprefix("clip/"): mark for name, mark in others.items()}))


if __name__ == "__main__":
    stage_main(__doc__, wanted=inferred)
