"""Which stage reads which tables. Every stage is computed once, when something first asks for its table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.run import run_main
from cluster.stage import RunContext
from fgvr.config import Config
from fgvr.datasets import check_place, check_source
from fgvr.tables import Table
from pipelines.places import check_stores

if TYPE_CHECKING:
    from pipelines.needs import Target

log = logging.getLogger(__name__)

PRESETS = Path(__file__).parent / "configs"


class Flow:
    """The tables of a run; finished stages are found, missing ones are computed on the way."""

    def __init__(self, context: RunContext) -> None:
        self.context = context

    @cached_property
    def samples(self) -> Table:
        """All images."""
        from pipelines import ingest

        return ingest.run(self.context)

    @cached_property
    def labels(self) -> Table:
        """The MLLM's labels of the discovery images."""
        from pipelines import label

        return label.run(self.context, self.samples, self.looks, self.duplicates)

    @cached_property
    def duplicates(self) -> Table | None:
        """Which discovery images are one photo, where the config says that one of them is asked about."""
        from pipelines import duplicates

        similarity = self.context.config.label.duplicate_similarity
        if similarity is None:
            return None
        return duplicates.run(self.context, self.samples, self.embeddings, similarity)

    @cached_property
    def looks(self) -> Table | None:
        """Labels and aspects in one pass, where the config asks for it."""
        from pipelines import looks

        if not self.context.config.aspects.with_labels:
            return None
        return looks.run(self.context, self.samples, self.questions)

    @cached_property
    def embeddings(self) -> Table:
        """CLIP vectors of all images."""
        from pipelines import embed

        return embed.run(self.context, self.samples)

    @cached_property
    def candidates(self) -> Table:
        """Candidate sets of the discovery images."""
        from pipelines import candidates

        return candidates.run(self.context, self.samples, self.labels, self.embeddings)

    @cached_property
    def near(self) -> Table:
        """Disambiguated labels of the discovery images, and the model that gave them."""
        from pipelines import near

        return near.run(self.context, self.samples, self.labels, self.embeddings, self.candidates)

    @cached_property
    def questions(self) -> Table:
        """Aspect questions."""
        from pipelines import questions

        return questions.run(self.context, self)

    @cached_property
    def aspects(self) -> Table:
        """p(yes) of the student's training images."""
        from pipelines import aspects

        return aspects.run(self.context, self.samples, self.questions, self.looks)

    @cached_property
    def class_scores(self) -> Table:
        """Log-likelihoods of the class names as the MLLM's answer, of the student's training images."""
        from pipelines import class_scores

        return class_scores.run(self.context, self)

    @cached_property
    def makd(self) -> Table:
        """The student with aspects: its training history and its model."""
        from pipelines import makd

        return makd.run(self.context, self, variant="makd")

    @cached_property
    def base(self) -> Table:
        """The same student without aspects."""
        from pipelines import makd

        return makd.run(self.context, self, variant="base")

    @cached_property
    def predictions(self) -> Table:
        """The configured model's predictions for the configured samples."""
        from pipelines import infer

        return infer.run(self.context, self)

    @cached_property
    def detector(self) -> Table:
        """The object detector: its training history and its model."""
        from pipelines import detect

        return detect.run(self.context, self)

    @cached_property
    def detections(self) -> Table:
        """What the detector finds on the test images, and COCO's metrics."""
        from pipelines import detect

        return detect.find(self.context, self)

    @cached_property
    def report(self) -> Table:
        """Metrics of all methods, report.html and metrics.json."""
        from pipelines import evaluate

        return evaluate.run(self.context, self)


def stage_main(
    doc: str | None,
    work: Callable[[Flow], object],
    *,
    check: Callable[[Config], None] | None = None,
    asks: Callable[[Config], Sequence[Target]] | Sequence[Target] = (),
    tells_itself: bool = False,
) -> None:
    """The command line of one stage's script: computes what the stage needs, then the stage.

    Args:
        doc: the script's docstring, first thing in `--help`.
        work: what to ask of the flow.
        check: raises a UserError for what cannot work, before anything is started.
        asks: tables that it computes for which a model may have to be asked; what that will take is said first …
        tells_itself: … by `work`.
    """

    def targets(config: Config) -> Sequence[Target]:
        return asks(config) if callable(asks) else asks

    def run(context: RunContext) -> None:
        flow = Flow(context)
        if (wanted := targets(context.config)) and not tells_itself:
            from pipelines.plan import tell_bill

            tell_bill(flow, wanted)
        made = work(flow)
        for table in made if isinstance(made, tuple) else (made,):
            if isinstance(table, Table):
                log.info("%s: %s", table.name, table.uri)

    def look(config: Config) -> None:
        check_stores(config)
        check_place(config.ingest.source)
        check_source(config.ingest.source)
        if check is not None:
            check(config)
        if wanted := targets(config):
            from pipelines.plan import check_asked

            check_asked(config, wanted)

    def plan(config: Config) -> str:
        from pipelines.plan import plan as text

        return text(config, targets(config))

    run_main(doc, PRESETS, run, check=look, plan=plan)
