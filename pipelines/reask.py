"""reask: ask the MLLM again about the labels that are most probably wrong. In: samples, issues. Out: reasked.

    python pipelines/reask.py --label.reask 0.05 --mllm.model OpenGVLab/InternVL3_5-8B-HF

A closed choice in one pass: the model scores the label and up to two other names as its answer (log-probabilities, as
in class_scores). One row per image that is asked about, with all scores, the name that the model prefers, and whether
that replaces the label: only if it is clear and the neighbours' name, too (`fgvr/beliefs/second_look.py`). Candidate
sets, prototypes and heads then start from the replaced labels; the table `labels` keeps the first ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fgvr.config import Config, ConfigError
from fgvr.config.label_sources import AskedModel
from pipelines.asks import NAME_TOKENS, Asked, Load, photo_tokens, sampled
from pipelines.command import stage_main
from pipelines.label import as_source
from pipelines.run_tables import Run, per_run
from pipelines.stage import RowJob, RowStage

if TYPE_CHECKING:
    from cluster.stage import StageSummary
    from fgvr.mllm.scoring_workers import ChoiceSettings


class Reasked(RowStage):
    """What the MLLM says in a closed choice about the labels that are most probably wrong."""

    table = "reasked"

    def wanted(self, config: Config) -> bool:
        """Needed where the config asks again."""
        return config.label.reask > 0

    def check(self, config: Config) -> None:
        """Raise ConfigError where nobody is asked again, or the model cannot score names."""
        if not config.label.reask:
            raise ConfigError("label.reask = 0: nobody is asked again; set the share of the labels, e.g. 0.05")
        model = asked_again(config).mllm
        if not model.scores_names:
            raise ConfigError(
                f"label.reask: {self.model(config)}.kind = {model.kind} gives no probability of an answer that it did "
                "not give; take a model that runs in the worker (mllm.kind vllm), or set label.reask to 0"
            )

    def workers(self, config: Config) -> str | None:
        """The workers that score names."""
        return "class_scores.workers"

    def model(self, config: Config) -> str | None:
        """The MLLM that named the images; that of the run where a file did."""
        source = config.label.source
        own = isinstance(source, AskedModel) and source.mllm is not None
        return "label.sources.0.mllm" if own else "mllm"

    def reads(self, run: Run) -> Iterable[str]:
        """The locations of the images, and the issues with their other names."""
        return ("samples", "issues")

    def settings(self, run: Run) -> ChoiceSettings:
        """The worker's settings: the prompt, and each image's names."""
        from fgvr.mllm.scoring_workers import ChoiceSettings

        config = run.config
        threads = max(2, int(config.class_scores.workers.num_cpus))
        return ChoiceSettings(asked_again(config).label.prompt, choices_of(run), config.ingest.limits, threads)

    def recipe(self, run: Run) -> dict[str, Any]:
        """The model, the prompt, how many are asked about, and the rule of replacement."""
        from fgvr.beliefs import second_look
        from fgvr.mllm.backends import backend_identity, exactly

        config, asked = run.config, asked_again(run.config)
        return {
            "mllm": backend_identity(exactly(asked.mllm)),
            "prompt": asked.label.prompt,
            "share": config.label.reask,
            "rules": second_look.RULES,
            "limits": config.ingest.limits,
            "workers": config.class_scores.workers,
        }

    def job(self, run: Run) -> RowJob:
        """One row per image that is asked about."""
        import numpy as np

        from fgvr import schemas
        from fgvr.mllm.scoring_workers import ChoiceWorker

        settings = self.settings(run)
        ids = np.array(sorted(settings.choices), dtype=np.int64)
        return RowJob(ids, ChoiceWorker, {"settings": settings}, schemas.REASKED)

    def asks(self, run: Run) -> Asked:
        """The names of each image; how many labels the neighbours contradict is not known yet."""
        from fgvr.beliefs.second_look import CHOICES
        from fgvr.mllm.request_tokens import FRAME, text_tokens

        images = max(1, round(run.config.label.reask * sampled(run.config, run.photos)))
        head = FRAME + photo_tokens(run) + text_tokens(asked_again(run.config).label.prompt)
        row = Load(CHOICES, CHOICES * (head + NAME_TOKENS), head * (CHOICES - 1), 0)
        return Asked(images, row, True)

    def finish(self, run: Run, summary: StageSummary) -> None:
        """Record how many images were asked about."""
        summary.extra = {"asked": len(choices_of(run))}


def asked_again(config: Config) -> Config:
    """The config with the model and the prompt that named the images: those of the first source, if it was asked."""
    source = config.label.source
    return as_source(config, source if isinstance(source, AskedModel) else None)


@per_run
def choices_of(run: Run) -> dict[int, tuple[str, ...]]:
    """The names to compare by image id, the label first, then the neighbours' name.

    Of the worst labels only those that the neighbours contradict: no answer could replace any other.
    """
    import math

    from fgvr.beliefs.second_look import choices

    rows = [row for row in run.table("issues").read().to_pylist() if row["score"] is not None]
    rows.sort(key=lambda row: (-row["score"], row["image_id"]))
    worst = rows[: math.ceil(run.config.label.reask * len(rows))]
    return {row["image_id"]: choices(row["label"], row["suggested"]) for row in worst if row["neighbours_name"]}


if __name__ == "__main__":
    stage_main(__doc__, "reasked")
