"""Which images the compared methods name, and which of their tables has a method's names."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fgvr.config import Config, ConfigError
from fgvr.config.run import Method
from pipelines.stage import Phase, Run, Stage, per_run

if TYPE_CHECKING:
    import pyarrow as pa

    from fgvr.arrays import Ids
    from fgvr.evaluation.images import EvaluationImages


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compared:
    """What is evaluated.

    Attributes:
        images: that all methods name.
        examples: int64, ascending: discovery images that the report shows.
        methods: in the order of the rows.
        discovery_overlap: of the images, those that are in the discovery set, too.
    """

    images: EvaluationImages
    examples: Ids
    methods: Sequence[Method]
    discovery_overlap: int = 0

    @property
    def predicted(self) -> Ids:
        """Those that methods predict. Not the MLLM: it has labelled the examples already, and asking again costs."""
        return np.union1d(self.images.ids, self.examples)

    @property
    def with_near(self) -> bool:
        """Whether NeaR is evaluated; else its table is not asked for, since asking would train it."""
        return "near" in self.methods


def methods_of(config: Config) -> list[Method]:
    """The configured methods; raises ConfigError where there are none. Without `makd.base` there is no base."""
    methods = list(dict.fromkeys(config.evaluate.methods))
    if not methods:
        raise ConfigError("evaluate.methods is empty: name at least one method")
    return [method for method in methods if method != "base" or config.makd.base]


@per_run
def evaluated(run: Run) -> tuple[EvaluationImages, int]:
    """The images that all methods name, and how many of them are in the discovery set, too."""
    from fgvr.evaluation.images import choose_images

    config, labelled = run.config.evaluate, _labelled(run)
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
    """Discovery images whose file could be read."""
    from fgvr.evaluation.images import readable

    return readable(run.table("labels").read(["image_id", "label_id", "error"]))


@per_run
def compared_images(run: Run) -> Compared:
    """What the methods name, and what the report shows."""
    from fgvr.report.cards import choose_examples

    config, methods, labelled = run.config.evaluate, methods_of(run.config), _labelled(run)
    images, overlap = evaluated(run)
    settled = run.table("near").read(["image_id", "label_id"]) if "near" in methods else labelled
    examples = choose_examples(labelled, settled, config.report_images, config.seed)
    return Compared(images, examples, methods, overlap)


class ComparedStage(Stage):
    """Names of one method for the images that are compared.

    Rows have the columns image_id, label, error at least; `label` is null where the method failed on an image. A
    further method is a name in `evaluate.methods`, a title in `fgvr.report.console`, and the line of a stage
    `eval_<name>` in `pipelines.registry`; docs/methods.md says where each comes from.
    """

    phase: ClassVar[Phase | None] = "infer"

    def consults(self, run: Run) -> Iterable[str]:
        """Which images: those of a split, and discovery images that the report shows."""
        near = ("near",) if "near" in methods_of(run.config) else ()
        return ("samples", "labels", *near)
