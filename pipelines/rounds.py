"""rounds: ask about half of the images, then where names are missing or disputed. In: first_selected. Out: answers.

    python pipelines/rounds.py --label.rounds 2 --label.images.select medoids --label.images.max_images 3000

Three tables. `first_answers`: what the MLLM says about the images of the first round. `first_labels`: their names, by
which `selected` chooses the second half (`pipelines/selection.py`); aliases and merging do not change these, so that a
later edit of names asks nothing again. `second_answers`: what it says about that half. `answers` then holds both, and
all that follows is as with one round.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fgvr.config import Config, ConfigError
from pipelines.asks import Asked, naming, sampled
from pipelines.command import stage_main
from pipelines.embed import discovered
from pipelines.label import AnswerStage, NameStage, label_settings
from pipelines.run_tables import Run

if TYPE_CHECKING:
    from fgvr.arrays import Ids
    from fgvr.names.answer_items import Form


class RoundStage(AnswerStage):
    """The answers of one of two rounds."""

    several = True

    def asks(self, run: Run) -> Asked:
        """One request per image of the round and sample, at most: there may be fewer images that differ."""
        first = (sampled(run.config, run.photos) + 1) // 2
        rows = first if self.table == FirstAnswers.table else sampled(run.config, run.photos) - first
        return Asked(rows, naming(run, label_settings(run.config, several=True)), at_most=True)


class FirstAnswers(RoundStage):
    """What the MLLM says about the images of the first round."""

    table = "first_answers"

    def consults(self, run: Run) -> Iterable[str]:
        """The choice of the images."""
        return ("samples", "first_selected")

    def pays(self, run: Run) -> Iterable[str]:
        """Also the choice of the images."""
        return (*self.reads(run), "first_selected")

    def which(self, run: Run) -> Ids:
        """The images of the first round."""
        ids: Ids = run.table("first_selected").read(["image_id"])["image_id"].to_numpy()
        return ids


class FirstLabels(NameStage):
    """The names of the images of the first round, by which those of the second are chosen."""

    table = "first_labels"
    answers = "first_answers"

    def form(self, config: Config) -> Form:
        """The format that `label.listed` and `label.answer` set."""
        from fgvr.names.answer_items import Form

        return Form(config.label.listed, config.label.answer == "structured")


class SecondAnswers(RoundStage):
    """What the MLLM says about the images that were chosen after the first round."""

    table = "second_answers"

    def consults(self, run: Run) -> Iterable[str]:
        """The choice of the images, and the groups of near-duplicates, where there are any."""
        groups = () if run.config.label.duplicate_similarity is None else ("duplicates",)
        return ("samples", "first_selected", "selected", *groups)

    def which(self, run: Run) -> Ids:
        """The images that are asked about and were not in the first round."""
        import numpy as np

        from pipelines.duplicates import asked_ids

        asked = discovered(run) if run.config.label.duplicate_similarity is None else asked_ids(run)
        first = run.table("first_selected").read(["image_id"])["image_id"].to_numpy()
        return np.setdiff1d(asked, first)


def _check(config: Config) -> None:
    if config.label.rounds == 1:
        raise ConfigError("label.rounds is 1: all images are asked about at once, by the stage label")


if __name__ == "__main__":
    stage_main(__doc__, "answers", check=_check)
