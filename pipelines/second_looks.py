"""second_looks: the MLLM chooses a name where the student is not sure. In: samples, predictions, calibration.

    python pipelines/second_looks.py --run.name mine --infer.target_precision 0.95 --infer.second_look_budget 2000

A closed choice in one pass, as in reask: the model scores the student's best names as its answer about the photo. It is
asked about `infer.second_look_budget` photos that no threshold decides: first those whose right name is known, which
show how often the choice is right, then others at random. Random, since a promise about photos chosen by their score
would need checked photos that were chosen so, too. What it says becomes a name only above a threshold of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fgvr.config import Config, ConfigError
from pipelines.asks import NAME_TOKENS, Asked, Load, photo_tokens
from pipelines.calibration import check_promise, student_of, taught_by, thresholds_in, tree_from
from pipelines.command import stage_main
from pipelines.kinds import stated_kinds
from pipelines.reask import Reasked, asked_again
from pipelines.run_tables import Run, per_run
from pipelines.stage import RowJob, RowStage

if TYPE_CHECKING:
    from cluster.stage import StageSummary
    from fgvr.arrays import Ids
    from fgvr.mllm.scoring_workers import ChoiceSettings

SEED = 0
"""Of the photos that are asked about."""


class SecondLooks(RowStage):
    """What the MLLM chooses for photos that the student is not sure of."""

    table = "second_looks"

    def wanted(self, config: Config) -> bool:
        """Where a precision is to be promised, and the MLLM may be asked."""
        return config.infer.target_precision is not None and config.infer.second_look_budget > 0

    def check(self, config: Config) -> None:
        """Raise ConfigError where nobody is asked, or the model cannot score names."""
        check_promise(config)
        if not config.infer.second_look_budget:
            raise ConfigError("infer.second_look_budget = 0: nobody is asked; set the number of photos, e.g. 1000")
        model = asked_again(config).mllm
        if not model.scores_names:
            raise ConfigError(
                f"infer.second_look_budget: {self.model(config)}.kind = {model.kind} gives no probability of an answer "
                "that it did not give; take a model that runs in the worker (mllm.kind vllm), or set the budget to 0"
            )

    def workers(self, config: Config) -> str | None:
        """The workers that score names."""
        return "class_scores.workers"

    def model(self, config: Config) -> str | None:
        """The MLLM that named the photos."""
        return Reasked().model(config)

    def consults(self, run: Run) -> Iterable[str]:
        """What the tree of names is made of."""
        return tree_from(run.config)

    def reads(self, run: Run) -> Iterable[str]:
        """The places of the photos, the student's best names, and which of them no threshold decides."""
        return ("samples", "predictions", "calibration", *taught_by(run))

    def settings(self, run: Run) -> ChoiceSettings:
        """The worker's settings: the prompt, and each photo's names."""
        from fgvr.mllm.scoring_workers import ChoiceSettings

        config = run.config
        threads = max(2, int(config.class_scores.workers.num_cpus))
        return ChoiceSettings(asked_again(config).label.prompt, choices_of(run), config.ingest.limits, threads)

    def recipe(self, run: Run) -> dict[str, Any]:
        """The model, the prompt, and how many photos it is asked about."""
        from fgvr.mllm.backends import backend_identity, exactly

        config, asked = run.config, asked_again(run.config)
        return {
            "mllm": backend_identity(exactly(asked.mllm)),
            "prompt": asked.label.prompt,
            "budget": config.infer.second_look_budget,
            "limits": config.ingest.limits,
            "workers": config.class_scores.workers,
            **stated_kinds(run),
        }

    def job(self, run: Run) -> RowJob:
        """One row per photo; whether the choice would replace a label (`replaced`) does not count here."""
        import numpy as np

        from fgvr import schemas
        from fgvr.mllm.scoring_workers import ChoiceWorker

        settings = self.settings(run)
        ids = np.array(sorted(settings.choices), dtype=np.int64)
        return RowJob(ids, ChoiceWorker, {"settings": settings}, schemas.REASKED)

    def asks(self, run: Run) -> Asked:
        """The names of each photo; how many photos no threshold decides is not known yet."""
        from fgvr.beliefs.second_look import CHOICES
        from fgvr.mllm.request_tokens import FRAME, text_tokens

        infer, photos = run.config.infer, run.photos
        there = photos.total if infer.split is None else photos.splits.get(infer.split, 0)
        head = FRAME + photo_tokens(run) + text_tokens(asked_again(run.config).label.prompt)
        row = Load(CHOICES, CHOICES * (head + NAME_TOKENS), head * (CHOICES - 1), 0)
        return Asked(max(1, min(infer.second_look_budget, there)), row, True)

    def finish(self, run: Run, summary: StageSummary) -> None:
        """Record how many photos were asked about, and how many of them are checked ones."""
        import numpy as np

        asked = np.array(sorted(choices_of(run)), np.int64)
        checked = run.table("calibration").read(["image_id"])["image_id"].to_numpy()
        summary.extra = {"asked": len(asked), "checked": int(np.isin(asked, checked).sum())}


@per_run
def choices_of(run: Run) -> dict[int, tuple[str, ...]]:
    """The names to compare by image id, the student's own first."""
    from fgvr.beliefs.second_look import CHOICES

    found = {}
    for rows in run.table("predictions").batches_of(asked_ids(run), ["image_id", "top_labels"]):
        for image, names in zip(rows["image_id"].to_pylist(), rows["top_labels"].to_pylist(), strict=True):
            distinct = tuple(dict.fromkeys(names))[:CHOICES]
            if len(distinct) > 1:
                found[image] = distinct
    return found


def asked_ids(run: Run) -> Ids:
    """Ids of the photos to ask about, int64 ascending: checked ones first, then others at random."""
    import numpy as np

    student, thresholds = student_of(run), thresholds_in(run.table("calibration").extra)
    left = student.ids[thresholds.left(student.scores) & ~student.learned & np.isfinite(student.scores.name)]
    left = np.random.default_rng(SEED).permutation(left)
    checked = np.isin(left, run.table("calibration").read(["image_id"])["image_id"].to_numpy())
    return np.sort(np.concatenate([left[checked], left[~checked]])[: run.config.infer.second_look_budget])


if __name__ == "__main__":
    stage_main(__doc__, "second_looks")
