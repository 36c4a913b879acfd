"""base, makd: the students name the images; the one with aspects also answers for some training images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipelines.asks import Work, compared
from pipelines.compared import ComparedStage, compared_images
from pipelines.infer import PredictionStage
from pipelines.report_aspects import aspect_sample
from pipelines.run_tables import Run

if TYPE_CHECKING:
    from fgvr.arrays import Ids


class EvalStudent(ComparedStage, PredictionStage):
    """A stage in which a student names the images."""

    def which(self, run: Run) -> Ids:
        """The images that are compared or shown."""
        return compared_images(run).predicted

    def works(self, run: Run) -> Work:
        """The images that are compared; the few others that the report shows are left out."""
        return Work(compared(run.config, run.photos))


class EvalMakd(EvalStudent):
    """Names given by the student with aspects."""

    table = "eval_makd"


class EvalBase(EvalStudent):
    """Names given by the student without aspects."""

    table = "eval_base"
    trained = "base"


class EvalAspects(PredictionStage):
    """The aspects that the student predicts for training images with known answers of the MLLM."""

    table = "eval_aspects"

    def consults(self, run: Run) -> Iterable[str]:
        """The student, whose training images are those with answers."""
        return ("makd",)

    def which(self, run: Run) -> Ids:
        """A sample of the images with answers."""
        return aspect_sample(run).asked
