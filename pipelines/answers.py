"""The raw answers about images, as each source of labels gives them: an asked model, or a file of answers.

`answers` holds those of the first source, from which the images get their labels, and `answers_<name>` those of each
further one (`label.sources`, docs/label-sources.md). A file is read in this process, for nothing; models are asked by
workers in parallel parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fgvr.config import Config
from fgvr.config.label_sources import AnswerFile, AskedModel, LabelSource
from pipelines.asks import Asked, naming, sampled
from pipelines.embed import chosen_by, discovered
from pipelines.label import AnswerStage, answer_limit, as_source, label_settings, note_cut_answers
from pipelines.registry import FURTHER
from pipelines.run_tables import Run

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.mllm.label_worker import LabelSettings


class SourcedAnswers(AnswerStage):
    """Answers of one source of labels, by default the first one, or of `mllm` where there is none."""

    several = True

    def number(self, config: Config) -> int:
        """Number of the source among `label.sources`."""
        return 0

    def source(self, config: Config) -> LabelSource | None:
        """The source; None: `mllm`, asked as the fields of label say."""
        return config.label.sources[self.number(config)] if config.label.sources else None

    def file(self, config: Config) -> AnswerFile | None:
        """The source, where it is a file."""
        source = self.source(config)
        return source if isinstance(source, AnswerFile) else None

    def field(self, config: Config) -> str:
        """Name of the source in the config."""
        return f"label.sources.{self.number(config)}"

    def check(self, config: Config) -> None:
        """Open the file of answers and check its columns; raises AnswerFileError."""
        if (file := self.file(config)) is not None:
            from fgvr.answers.rows import open_answers

            open_answers(file, self.field(config))

    def workers(self, config: Config) -> str | None:
        """The source's own workers, or those of label; None for a file."""
        source = self.source(config)
        if isinstance(source, AnswerFile):
            return None
        own = isinstance(source, AskedModel) and source.workers is not None
        return f"{self.field(config)}.workers" if own else super().workers(config)

    def model(self, config: Config) -> str | None:
        """The source's own model, or the MLLM of the run; None for a file."""
        source = self.source(config)
        if isinstance(source, AnswerFile):
            return None
        own = isinstance(source, AskedModel) and source.mllm is not None
        return f"{self.field(config)}.mllm" if own else super().model(config)

    def settings(self, run: Run) -> LabelSettings:
        """The settings of the workers that ask."""
        from fgvr.mllm.backends import exactly

        settings = self._asked(run.config)
        return replace(settings, mllm=exactly(settings.mllm))

    def _asked(self, config: Config) -> LabelSettings:
        return label_settings(as_source(config, self.source(config)), several=self.several)

    def asks(self, run: Run) -> Asked:
        """One request per discovery image and sample."""
        return Asked(sampled(run.config, run.photos), naming(run, self._asked(run.config)))

    def recipe(self, run: Run) -> dict[str, Any]:
        """Of a file its content and how it is read; the ids of the images in any case."""
        from cluster.fingerprint import digest_of_ids

        if (file := self.file(run.config)) is None:
            return super().recipe(run)
        from fgvr.answers.rows import file_decides

        return {**file_decides(file), "ids": digest_of_ids(self.which(run))}

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Ask, or read the file."""
        file = self.file(run.config)
        return super().compute(run, folder) if file is None else self._read(file, run, folder)

    def _read(self, file: AnswerFile, run: Run, folder: StageFolder) -> StageSummary:
        from cluster.stage import StageSummary
        from fgvr.answers.rows import FileAnswers
        from fgvr.failures import Failures
        from fgvr.sources.image_join import folder_of

        config, ids = run.config, self.which(run)
        size = folder.rows_per_part(config.label.workers.rows_per_part)
        photos = folder_of(config.ingest.source, run.folder)
        answers = FileAnswers(file, self.field(config), run.table("samples"), photos)
        failures, parts = Failures(), 0
        for rows in answers.parts(ids, size):
            folder.write_part(parts, rows)
            failures.add(Failures.in_rows(rows))
            parts += 1
        return StageSummary.of(
            len(ids),
            failures,
            parts=parts,
            rows_per_part=size,
            metrics=answers.counts(),
            remarks=answers.remarks(),
        )

    def finish(self, run: Run, summary: StageSummary) -> None:
        """Add a remark where answers were cut off."""
        limit = answer_limit(run.config, self.source(run.config), several=self.several)
        if limit is not None:
            note_cut_answers(summary, limit)


class Answers(SourcedAnswers):
    """The answers for the discovery images: asked or read here, or taken from `looks` or from two rounds."""

    table = "answers"

    def workers(self, config: Config) -> str | None:
        """None where other stages ask the questions."""
        return None if asked_elsewhere(config) else super().workers(config)

    def model(self, config: Config) -> str | None:
        """None where other stages ask the questions."""
        return None if asked_elsewhere(config) else super().model(config)

    def consults(self, run: Run) -> Iterable[str]:
        """What chose the images, and the groups of near-duplicates, of which only representatives are asked about."""
        groups = () if run.config.label.duplicate_similarity is None else ("duplicates",)
        return ("samples", *chosen_by(run.config), *groups)

    def reads(self, run: Run) -> Iterable[str]:
        """The locations of the images, or the answers that `looks` or two rounds collected."""
        return asked_elsewhere(run.config) or super().reads(run)

    def pays(self, run: Run) -> Iterable[str]:
        """Also the choice of the images, with the vectors that it takes."""
        return (*self.reads(run), *chosen_by(run.config))

    def which(self, run: Run) -> Ids:
        """The discovery set, with one image per group of near-duplicates."""
        from pipelines.duplicates import asked_ids

        return discovered(run) if run.config.label.duplicate_similarity is None else asked_ids(run)

    def recipe(self, run: Run) -> dict[str, Any]:
        """Only the ids of the images where other stages ask the questions."""
        from cluster.fingerprint import digest_of_ids

        if asked_elsewhere(run.config):
            return {"ids": digest_of_ids(self.which(run))}
        return super().recipe(run)

    def asks(self, run: Run) -> Asked:
        """One request per discovery image and sample."""
        fewer = run.config.label.duplicate_similarity is not None or run.config.label.images.chosen
        return replace(super().asks(run), at_most=fewer)

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Ask or read, or take the answers from `looks` or from two rounds."""
        from fgvr import schemas
        from pipelines.look_parts import take_part
        from pipelines.selection import take_rounds

        if run.config.label.rounds > 1:
            return take_rounds(run, folder, self.which(run))
        if not run.config.aspects.with_labels:
            return super().compute(run, folder)
        summary = take_part(run, folder, column="answer", ids=self.which(run), schema=schemas.ANSWERS)
        self.finish(run, summary)
        return summary


def asked_elsewhere(config: Config) -> tuple[str, ...]:
    """The tables from which the answers about the discovery images are taken; none where `answers` asks itself."""
    if config.label.rounds > 1:
        return ("first_answers", "second_answers")
    return ("looks",) if config.aspects.with_labels else ()


class SourceAnswers(SourcedAnswers):
    """The answers of a further source about the discovery images: the table `answers_<name>`."""

    def __init__(self, name: str) -> None:
        """The stage of the source of that name."""
        self.name = name
        self.table = f"{FURTHER}{name}"  # type: ignore[misc]  # of a family of tables each has its own

    def number(self, config: Config) -> int:
        """See SourcedAnswers."""
        return [source.name for source in config.label.sources].index(self.name)

    def consults(self, run: Run) -> Iterable[str]:
        """What decides the discovery set."""
        return ("samples", *chosen_by(run.config))

    def pays(self, run: Run) -> Iterable[str]:
        """Also the choice of the images, with the vectors that it takes."""
        return (*self.reads(run), *chosen_by(run.config))

    def asks(self, run: Run) -> Asked:
        """One request per discovery image and sample."""
        return replace(super().asks(run), at_most=run.config.label.images.chosen)

    def which(self, run: Run) -> Ids:
        """The discovery set."""
        return discovered(run)
