"""What would stop a run after minutes or hours, looked for in seconds, before Ray or a model is started."""

from __future__ import annotations

import logging
from collections.abc import Collection

from fgvr.baselines.wordnet import read_nouns
from fgvr.clip.source import check_clip_weights, find_clip
from fgvr.config import Config, ConfigError
from fgvr.config.data import (
    DRAWN,
    BirdScenesSource,
    CocoSource,
    FolderSource,
)
from fgvr.datasets import check_place
from fgvr.detection.coco import Category
from fgvr.detection.model import AspectDetector, DetectorSpec
from fgvr.metrics.semantic import find_sentence_model
from fgvr.mllm.aliases import read_aliases
from fgvr.mllm.backends import backend_identity
from fgvr.mllm.questions import read_questions
from fgvr.report.prices import read_prices
from pipelines.engine_checks import check_engines
from pipelines.infer import check_model
from pipelines.methods.cased import captions
from pipelines.methods.finer import language_model
from pipelines.photo_counts import may_have_truth
from pipelines.questions import check_asked_with_labels
from pipelines.student_task import check_student

log = logging.getLogger(__name__)


def check(config: Config) -> None:
    """Raise a UserError that names the field: models that are not there, no questions, training on test images."""
    _check_source(config)
    check_naming(config)
    check_questions(config)
    _check_learning(config)
    _check_simulated(config)
    check_methods(config)
    backend_identity(config.mllm)  # finds the model without its weights; last, as a hub may take its time to answer
    check_engines(config)
    find_clip(config.clip)
    check_clip_weights(config.clip)
    check_model(config)
    if may_have_truth(config.ingest.source):
        find_sentence_model(config.evaluate.sentence_model)
    check_student(config)


def check_naming(config: Config) -> None:
    """Read the aliases that were given and find the model that unites names; each raises its own error."""
    if config.label.aliases is not None:
        read_aliases(config.label.aliases)
    if config.label.merges_by_meaning:
        find_sentence_model(config.label.merge_model, "label.merge_model")


def _check_simulated(config: Config) -> None:
    """A simulated MLLM is said loudly; what cannot do without a model is refused."""
    if config.mllm.made_up:
        log.warning("mllm.kind = simulated: NO MODEL IS ASKED, every answer and all that follows is made up")
    if config.embed.vectors.made_up:
        raise ConfigError(
            "embed.vectors.kind = simulated: NeaR and the evaluation need CLIP's vectors. Set it to clip, or run only "
            "pipelines/embed.py and pipelines/candidates.py"
        )
    if config.questions.llm is not None and config.questions.llm.made_up and config.questions.file is None:
        raise ConfigError("questions.llm.kind = simulated: it writes no questions; set questions.file")


def check_splits(config: Config, splits: Collection[str]) -> None:
    """Raise a ConfigError for every field that names a split that is not there; known as soon as samples are listed.

    `evaluate.split` may be missing, as with a plain folder of photos: the discovery images stand in, with a warning.

    Args:
        config: of the run.
        splits: the splits of the samples table.
    """
    named = {
        "label.images.split": (config.label.images.drawn_from,),
        "embed.splits": config.embed.splits or (),
        "aspects.split": (config.aspects.split,),
        "makd.split": (config.makd.split,),
        "infer.split": () if config.infer.split is None else (config.infer.split,),
    }
    known = ", ".join(sorted(splits))
    wrong = [
        f"{field} = {split}: no image is in this split (there are: {known})"
        for field, values in named.items()
        for split in values
        if split not in splits
    ]
    if wrong:
        raise ConfigError("\n".join(wrong))
    if config.evaluate.split not in splits:
        log.warning(
            "evaluate.split = %s: no image is in this split (there are: %s); discovery images will stand in for them",
            config.evaluate.split,
            known,
        )


def check_evaluation(config: Config) -> None:
    """The same for the script of evaluate, which computes only what its methods ask for."""
    check_methods(config)
    if {"base", "makd"} & set(config.evaluate.methods):
        check_student(config)


def check_detection(config: Config) -> None:
    """The same for the detector, which is not a part of the whole job."""
    source, detect = config.ingest.source, config.detect
    if not isinstance(source, CocoSource | BirdScenesSource):
        raise ConfigError(
            f"ingest.source.kind = {source.kind}: a detector needs photos with boxes, coco or (drawn) bird_scenes"
        )
    _check_source(config)
    if config.ingest.limits.cut_bottom:
        raise ConfigError(
            f"ingest.limits.cut_bottom = {config.ingest.limits.cut_bottom}: boxes are places in the whole photo, and a "
            "photo without its bottom has not the size that its annotations say; leave it at 0 for a detector"
        )
    for field, split in (("split", detect.split), ("test_split", detect.test_split)):
        if split not in {"train", "test"}:
            raise ConfigError(f"detect.{field} = {split}: the splits of COCO files are train and test")
    if detect.split == detect.test_split:
        raise ConfigError(f"detect.test_split = {detect.test_split}: the detector learns on it (detect.split)")
    if detect.alpha > 0 and detect.aspects == "mllm":
        if config.aspects.split != detect.split:
            raise ConfigError(
                f"aspects.split = {config.aspects.split}: the detector learns on detect.split = {detect.split}"
            )
        check_questions(config)
        backend_identity(config.mllm)
    elif detect.alpha > 0 and not isinstance(source, BirdScenesSource):
        raise ConfigError("detect.aspects = truth: only drawn scenes have true answers; take mllm")
    AspectDetector(DetectorSpec(detect.model, (Category(1, "a"),)))


def _check_source(config: Config) -> None:
    source = config.ingest.source
    check_place(source)
    unlabelled = isinstance(source, FolderSource) and source.class_from == "none"
    if unlabelled and config.label.images.per_class is not None:
        raise ConfigError(
            f"label.images.per_class = {config.label.images.per_class}: the images of a folder have no classes where "
            "ingest.source.class_from is none; set it to null, and label.images.max_images counts"
        )


def check_questions(config: Config) -> None:
    """Read the questions, or see whether somebody can write them; raises a UserError."""
    if config.questions.file is not None:
        read_questions(config.questions.file)
    elif config.questions.llm is None and not isinstance(config.ingest.source, DRAWN):
        raise ConfigError(
            "questions: set questions.file (a yes/no question about visible aspects on each line), or questions.llm to "
            "let a language model write them, e.g. --questions.llm.kind openai --questions.llm.model gpt-4o"
        )
    elif config.questions.llm is not None and (
        config.makd.target == "near" or not may_have_truth(config.ingest.source)
    ):
        check_asked_with_labels(config)
    if config.questions.compares_meaning:
        find_sentence_model(config.questions.duplicate_model, "questions.duplicate_model")


def check_methods(config: Config) -> None:
    """Read what the compared methods need besides models: each of them raises its own error."""
    methods = config.evaluate.methods
    if {"finer", "makd"} & set(methods):
        check_questions(config)
    if "zs_wordnet" in methods:
        read_nouns(config.baselines.wordnet.path)
    if "cased" in methods:
        captions(config)
    if config.evaluate.prices is not None:
        read_prices(config.evaluate.prices)
    if "finer" in methods:
        backend_identity(language_model(config))


def _check_learning(config: Config) -> None:
    images = config.label.images
    for field, split in (("label.images.split", images.drawn_from), ("makd.split", config.makd.split)):
        asked_for = images.legacy_discovery_split and field == "label.images.split"
        if split == config.evaluate.split and not asked_for:
            raise ConfigError(f"{field} = {split}: that is evaluate.split, on which nothing may be learned")
