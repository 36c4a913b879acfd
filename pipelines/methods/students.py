"""base, makd: the students name the images, and the one with aspects says what it sees in some training images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipelines.compared import ComparedStage, compared_images
from pipelines.infer import PredictionStage
from pipelines.report_aspects import aspect_sample
from pipelines.stage import Run

if TYPE_CHECKING:
    from fgvr.arrays import Ids


class EvalStudent(ComparedStage, PredictionStage):
    """Names by a student."""

    def which(self, run: Run) -> Ids:
        """Those that are compared or shown."""
        return compared_images(run).predicted


class EvalMakd(EvalStudent):
    """By the student with aspects."""

    table = "eval_makd"


class EvalBase(EvalStudent):
    """By the student without aspects."""

    table = "eval_base"
    trained = "base"


class EvalAspects(PredictionStage):
    """What the student with aspects says about training images whose answers of the MLLM are known."""

    table = "eval_aspects"

    def consults(self, run: Run) -> Iterable[str]:
        """Which images have answers."""
        return ("makd",)

    def which(self, run: Run) -> Ids:
        """A sample of them."""
        return aspect_sample(run).asked
