"""The images that all compared methods name, and the base class of the methods' stages."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fgvr.config import Config, ConfigError
from fgvr.config.run import Method
from pipelines.reviewed import AUDITED, audited
from pipelines.run_tables import Run, per_run
from pipelines.stage import Phase, Stage

if TYPE_CHECKING:
    import pyarrow as pa

    from fgvr.arrays import Ids
    from fgvr.evaluation.images import EvaluationImages


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compared:
    """The images and methods of an evaluation.

    Attributes:
        images: the images that all methods name.
        examples: int64, ascending: ids of the discovery images that the report shows.
        methods: the methods, in the order of the report's rows.
        discovery_overlap: how many of the images are also in the discovery set.
    """

    images: EvaluationImages
    examples: Ids
    methods: Sequence[Method]
    discovery_overlap: int = 0

    @property
    def predicted(self) -> Ids:
        """Images that the methods predict, examples included; not for the MLLM, which has labelled these already."""
        return np.union1d(self.images.ids, self.examples)

    @property
    def with_near(self) -> bool:
        """Whether NeaR is evaluated; if not, its table is not requested, because a request would train it."""
        return "near" in self.methods


def methods_of(config: Config) -> list[Method]:
    """The configured methods, without `base` where `makd.base` is off; raises ConfigError where there are none."""
    methods = list(dict.fromkeys(config.evaluate.methods))
    if not methods:
        raise ConfigError("evaluate.methods is empty: name at least one method")
    return [method for method in methods if method != "base" or config.makd.base]


@per_run
def evaluated(run: Run) -> tuple[EvaluationImages, int]:
    """The images that all methods name, and how many of them are also in the discovery set.

    Where no image of the split has a class, and people looked at an audit sample, these are the images of which they
    said what they show: for them alone the names can be called right or wrong.
    """
    from fgvr.evaluation.images import EvaluationImages, choose_images

    config, labelled = run.config.evaluate, _labelled(run)
    if audited(run) and not run.photos.classes.get(config.split):
        ids = np.array(sorted(audited(run)), np.int64)
        overlap = int(np.isin(ids, labelled["image_id"].to_numpy()).sum())
        return EvaluationImages(ids, AUDITED, trained_on=False), overlap
    images = choose_images(
        run.table("samples").batches(["image_id", "split", "class_name"]),
        labelled["image_id"].to_numpy(),
        split=config.split,
        max_images=config.max_images,
        seed=config.seed,
    )
    return images, int(np.isin(images.ids, labelled["image_id"].to_numpy()).sum())


@per_run
def _labelled(run: Run) -> pa.Table:
    """Labels of the discovery images whose file could be read."""
    from fgvr.evaluation.images import readable

    return readable(run.table("labels").read(["image_id", "label_id", "error"]))


@per_run
def compared_images(run: Run) -> Compared:
    """The images that the methods name, and those that the report shows."""
    from fgvr.report.cards import choose_examples

    config, methods, labelled = run.config.evaluate, methods_of(run.config), _labelled(run)
    images, overlap = evaluated(run)
    settled = run.table("near").read(["image_id", "label_id"]) if "near" in methods else labelled
    examples = choose_examples(labelled, settled, config.report_images, config.seed)
    return Compared(images, examples, methods, overlap)


class ComparedStage(Stage):
    """The names that one method gives to the compared images.

    Rows have at least the columns image_id, label and error; `label` is null where the method failed on an image. To
    add a method, add its name to `evaluate.methods`, a title to `fgvr.report.console`, and the line of a stage
    `eval_<name>` to `pipelines.registry`. docs/methods.md gives the source of each method.
    """

    phase: ClassVar[Phase | None] = "infer"

    def consults(self, run: Run) -> Iterable[str]:
        """The tables that decide the images: a split, and the discovery images that the report shows."""
        near = ("near",) if "near" in methods_of(run.config) else ()
        return ("samples", "labels", *near)
