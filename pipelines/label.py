"""label: name the discovery images with the multimodal LLM. In: samples. Out: the labels table, a label space, aliases.

    python pipelines/label.py --label.images.max_images 500 --mllm.model OpenGVLab/InternVL3_5-8B-HF

`answers` (`pipelines/answers.py`): the model's raw answers, one row per image, computed in parallel parts and kept for
ever. `labels`: their meaning, computed over all answers at once: cleaned names, with aliases of one name merged into a
label space (`label.merge_similarity`). With `label.samples` (several sampled answers) or `label.listed` (several labels
per answer) an image has weighted candidates of its own; the heaviest is its label. Beside the labels lie
`label_space.json` (names and counts; the position of a name is its label id) and `aliases.csv` (answer, label, count),
which can be edited and passed back with `--label.aliases`; the model is then not asked again. With
`label.duplicate_similarity`, `answers` has one row per group of near-duplicates (`pipelines/duplicates.py`), and a
third table, `shared_answers`, has a row for every image. `label.sources` names other sources of answers, such as a file
of old labels, and several of them: the first gives an image its own label, or all together do (`label.combine`), and
the table `votes` has what each of them says (docs/label-sources.md).
"""

from __future__ import annotations

import hashlib
import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

from fgvr import storage
from fgvr.config import Config, ConfigError, Label
from fgvr.config.data import FolderSource
from fgvr.config.label_sources import AnswerFile, AskedModel, LabelSource
from fgvr.config.near import LISTED_PROMPT, LISTED_QUESTION
from fgvr.redact import masked_value
from pipelines.command import stage_main
from pipelines.registry import further_tables
from pipelines.reviewed import Reviewed, reviewed
from pipelines.run_tables import Run, per_run
from pipelines.stage import RowJob, RowStage, Stage

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.beliefs.together import Together
    from fgvr.mllm.label_worker import LabelSettings
    from fgvr.names.answer_items import Form, Item
    from fgvr.names.label_space import Merge, NamedAnswers
    from fgvr.tables import Table


log = logging.getLogger(__name__)

ALIASES_FILE = "aliases.csv"


class AnswerStage(RowStage):
    """A stage that collects the MLLM's raw answers about images, one row per image, kept for ever.

    Attributes:
        several: whether `label.samples` and `label.listed` apply; if not, each image is asked about once, for one
            label.
    """

    several = False

    def splits(self, config: Config) -> Iterable[tuple[str, str]]:
        """The split of the discovery set."""
        return [("label.images.split", config.label.images.drawn_from)]

    def workers(self, config: Config) -> str | None:
        """The workers of the stage label."""
        return "label.workers"

    def model(self, config: Config) -> str | None:
        """The MLLM that names the images."""
        return "mllm"

    def reads(self, run: Run) -> Iterable[str]:
        """The locations of the images."""
        return ("samples",)

    @abstractmethod
    def which(self, run: Run) -> Ids:
        """Ascending ids of the images that the model is asked about."""

    def settings(self, run: Run) -> LabelSettings:
        """The settings of the workers that ask."""
        from fgvr.mllm.backends import exactly

        settings = label_settings(run.config, several=self.several)
        return replace(settings, mllm=exactly(settings.mllm))

    def recipe(self, run: Run) -> dict[str, Any]:
        """The model, the prompt and its settings, and the ids of the images."""
        from cluster.fingerprint import digest_of_ids

        decides = answer_decides(self.settings(run))
        return decides | {"workers": run.config.label.workers, "ids": digest_of_ids(self.which(run))}

    def job(self, run: Run) -> RowJob:
        """One row per image, with one conversation per sample."""
        from fgvr import schemas
        from fgvr.mllm.label_worker import LabelWorker

        return RowJob(self.which(run), LabelWorker, {"settings": self.settings(run)}, schemas.ANSWERS)

    def finish(self, run: Run, summary: StageSummary) -> None:
        """Add a remark where answers were cut off."""
        config = run.config.label
        note_cut_answers(summary, token_limit(config, config.listed if self.several else 1))


def as_source(config: Config, source: LabelSource | None) -> Config:
    """The config with the label settings and the MLLM of a source; itself where it has none of its own."""
    mllm = source.mllm if isinstance(source, AskedModel) and source.mllm is not None else config.mllm
    return config.model_copy(update={"label": config.label.of_source(source), "mllm": mllm})


def form_of(config: Config, source: LabelSource | None) -> Form:
    """The format of a source's answers."""
    from fgvr.names.answer_items import Form

    asked = config.label.of_source(source)
    return Form(asked.listed, asked.answer == "structured")


def answer_decides(settings: LabelSettings) -> dict[str, Any]:
    """Everything that decides the answers about an image."""
    from fgvr.mllm.backends import backend_identity

    sampling = settings.sampling
    # Newer fields count only where they are used, so that tables of earlier versions are still found.
    held = {} if sampling.structured is None else {"structured": sampling.structured}
    return {
        "mllm": backend_identity(settings.mllm),
        "prompt": settings.prompt,
        "sampling": [sampling.max_tokens, sampling.temperature, sampling.seed],
        "samples": settings.samples,
        "limits": settings.limits,
    } | held


def label_settings(config: Config, *, several: bool) -> LabelSettings:
    """How images are named: the discovery images with `several`, others once, for the single most probable label.

    Several sampled answers need a temperature to differ; a single answer is better without one.
    """
    from fgvr.mllm.backend import Sampling
    from fgvr.mllm.label_worker import LabelSettings
    from fgvr.names.structured import extra_tokens

    asked = config.label
    listed, samples = (asked.listed, asked.samples) if several else (1, 1)
    temperature = asked.temperature if samples == asked.samples else 0.0
    structured = listed if asked.answer == "structured" else None
    tokens = asked.max_tokens * listed + (0 if structured is None else extra_tokens(listed))
    return LabelSettings(
        mllm=config.mllm,
        prompt=_prompt(asked, listed),
        sampling=Sampling(tokens, temperature, asked.seed, structured),
        limits=config.ingest.limits,
        samples=samples,
        threads=max(2, int(asked.workers.num_cpus)),
    )


def _prompt(asked: Label, listed: int) -> str:
    """The prompt for `listed` labels; for a structured answer the prompt ends with its format."""
    if asked.answer == "free":
        return asked.prompt if listed == 1 else asked.listed_prompt.replace("{k}", str(listed))
    from fgvr.names.structured import instruction

    # The default prompt for lists asks for lines, which a structured answer does not have.
    question = LISTED_QUESTION if asked.listed_prompt == LISTED_PROMPT else asked.listed_prompt
    question = asked.prompt if listed == 1 else question.replace("{k}", str(listed))
    return f"{question} {instruction(listed)}"


def answer_limit(config: Config, source: LabelSource | None, *, several: bool = True) -> str | None:
    """The field that limits the tokens of a source's answers; None of a file, whose answers are what they are.

    `several`: as in `label_settings`.
    """
    asked = config.label.of_source(source)
    return None if isinstance(source, AnswerFile) else token_limit(asked, asked.listed if several else 1)


def token_limit(asked: Label, listed: int = 1) -> str:
    """The field that limits the tokens of an answer with this many labels, as messages name it."""
    limit = f"label.max_tokens = {asked.max_tokens}"
    return limit if listed == 1 else f"{limit} (× {listed} labels)"


def _merge(config: Label) -> Merge | None:
    """The function that merges names of one meaning (`label.merge_similarity`); it loads its model on first use."""
    from fgvr.metrics.semantic import SentenceBert
    from fgvr.names.merging import merge_aliases

    similarity = config.merge_similarity
    if similarity is None:
        return None
    return lambda names: merge_aliases(
        names, lambda: SentenceBert(config.merge_model, field="label.merge_model"), similarity
    )


def _merge_identity(config: Label) -> Any:
    from fgvr.metrics.semantic import look_up

    if not config.merges_by_meaning:
        return config.merge_similarity
    return [config.merge_similarity, look_up(config.merge_model, "label.merge_model").identity()]


class NameStage(Stage):
    """A stage that turns all answers into a labels table with its label space and aliases.

    Attributes:
        answers: name of the table of answers, the first table that it reads.
        merges: whether aliases of one name are merged, as the config says.
    """

    answers = ""
    merges = False

    def reads(self, run: Run) -> Iterable[str]:
        """The answers."""
        return (self.answers,)

    def form(self, config: Config) -> Form:
        """The format of the answers; by default one label each, in free text."""
        from fgvr.names.answer_items import Form

        return Form()

    def limit(self, config: Config) -> str | None:
        """The field that limits the tokens of an answer, for the remark on cut answers; None: nothing here does."""
        return token_limit(config.label)

    def recipe(self, run: Run) -> dict[str, Any]:
        """How names are parsed from answers, and which of them are merged."""
        from fgvr.names.answers import READER

        form = self.form(run.config)
        merge = _merge_identity(run.config.label) if self.merges else None
        decides: dict[str, Any] = {"listed": form.listed, "merge": merge, "reader": READER}
        return decides | ({"structured": True} if form.structured else {})

    def aliases(self, run: Run) -> str | None:
        """A file of labels chosen before; None where there is none."""
        return None

    def checked(self, run: Run) -> Mapping[int, str]:
        """Right names by image id, where a person has looked."""
        return {}

    def reviewed(self, run: Run) -> Reviewed:
        """What people decided on the review page."""
        return Reviewed()

    def together(self, run: Run, named: NamedAnswers) -> Together | None:
        """What several sources say together; None: an image's label is that of the first."""
        return None

    def forms(self, run: Run) -> Mapping[str, Form]:
        """The tables whose answers make the label space, with the format of each; images get the first one's names."""
        return {next(iter(self.reads(run))): self.form(run.config)}

    def named(self, run: Run) -> NamedAnswers:
        """The meaning of every answer in these tables, with one label space for all of them."""
        from fgvr.names.aliases import read_aliases
        from fgvr.names.checked import chosen_too
        from fgvr.names.label_space import build_label_space, count_items, renamed

        aliases, names = self.aliases(run), self.reviewed(run).aliases
        items: Counter[Item] = Counter()
        for name, form in self.forms(run).items():
            # All columns: a table of an earlier version has no column `cut`.
            items.update(count_items(run.table(name).batches(), form.listed, structured=form.structured))
        chosen, checked = None if aliases is None else read_aliases(aliases), self.checked(run)
        if checked:
            chosen = chosen_too(chosen, list(checked.values()))
            items.update(checked.values())
        named = build_label_space(items, chosen, _merge(run.config.label) if self.merges else None)
        return renamed(named, items, names) if names else named

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Read every answer twice: for the label space, then for the rows."""
        from cluster.stage import StageSummary
        from fgvr import tables
        from fgvr.failures import Failures
        from fgvr.names.aliases import write_aliases
        from fgvr.names.checked import with_others
        from fgvr.names.label_space import LABEL_SPACE_FILE
        from pipelines.combine import reliability_of

        named = self.named(run)
        answers, together = run.table(next(iter(self.forms(run)))), self.together(run, named)
        folder.write_bytes(LABEL_SPACE_FILE, named.space.to_json())
        _write_aliases(folder, write_aliases(named.aliases))
        parts, others = self._rows(run, named, together), not_asked(answers, self.reviewed(run).names)
        if others:
            parts = with_others(parts, others, named, answers.rows_per_part)
        failures, count, total = Failures(), 0, 0
        for rows in parts:
            tables.write_part(folder.uri, count, rows)
            failures.add(Failures.in_rows(rows))
            count, total = count + 1, total + rows.num_rows
        return StageSummary.of(
            total,
            failures,
            parts=count,
            rows_per_part=answers.rows_per_part,
            metrics={
                "labels": float(len(named.space.labels)),
                "spellings": float(len(named.aliases)),
                "single_image_labels": float(sum(count == 1 for count in named.space.counts)),
                **({} if together is None else reliability_of(run.config, together.said)),
            },
        )

    def _rows(self, run: Run, named: NamedAnswers, together: Together | None) -> Iterator[pa.Table]:
        """The labels of a part of the answers after the other, as people left them."""
        from fgvr.names.checked import corrected, denied
        from fgvr.names.label_space import label_rows

        name, form = next(iter(self.forms(run).items()))
        checked, not_names = self.checked(run), self.reviewed(run).not_names
        for part in run.table(name).batches():
            rows = label_rows(part, named, form.listed, structured=form.structured, limit=self.limit(run.config))
            if together is not None:
                rows = together.rows(rows)
            yield denied(corrected(rows, checked, named), not_names, named)


class Labels(NameStage):
    """The labels of the discovery images."""

    table = "labels"
    merges = True

    def check(self, config: Config) -> None:
        """Read the given aliases and find the model that merges names; each raises its own error."""
        from fgvr.metrics.semantic import find_sentence_model
        from fgvr.names.aliases import read_aliases
        from fgvr.names.checked import read_checked
        from fgvr.sources.listed import read_listed
        from pipelines.combine import check_count

        source, images = config.ingest.source, config.label.images
        if isinstance(source, FolderSource) and source.class_from == "none" and images.per_class is not None:
            raise ConfigError(
                f"label.images.per_class = {images.per_class}: the images of a folder have no classes where "
                "ingest.source.class_from is none; set it to null, and label.images.max_images counts"
            )
        if images.only is not None:
            read_listed(images.only)
        if config.label.aliases is not None:
            read_aliases(config.label.aliases)
        if config.label.checked is not None:
            read_checked(config.label.checked)
        check_count(config)
        if config.label.merges_by_meaning:
            find_sentence_model(config.label.merge_model, "label.merge_model")

    def reads(self, run: Run) -> Iterable[str]:
        """The answers, or the answers shared by near-duplicates; and those of further sources."""
        first = "answers" if run.config.label.duplicate_similarity is None else "shared_answers"
        return (first, *further_tables(run.config))

    def form(self, config: Config) -> Form:
        """The format that the first source sets, or else `label.listed` and `label.answer`."""
        return form_of(config, config.label.source)

    def forms(self, run: Run) -> Mapping[str, Form]:
        """The answers of all sources."""
        sources = run.config.label.sources or (None,)
        return {name: form_of(run.config, source) for name, source in zip(self.reads(run), sources, strict=True)}

    def limit(self, config: Config) -> str | None:
        """The field for answers with `label.listed` labels."""
        return answer_limit(config, config.label.source)

    def aliases(self, run: Run) -> str | None:
        """The file `label.aliases`."""
        return run.config.label.aliases

    def recipe(self, run: Run) -> dict[str, Any]:
        """Also the content of the aliases, and how several sources are combined."""
        from pipelines.combine import combination

        aliases, checked = self.aliases(run), run.config.label.checked
        chosen = None if aliases is None else _digest_of_csv(aliases, ("answer", "label"))
        # Newer fields count only where they are used, so that tables of earlier versions are still found.
        looked = {} if checked is None else {"checked": _digest_of_csv(checked, ("uri", "right_name"))}
        further = [list(form_of(run.config, source)) for source in run.config.label.sources[1:]]
        people = self.reviewed(run).digest
        looked |= {} if people is None else {"reviewed": people}
        more = looked | ({"further": further} if further else {}) | combination(run.config)
        return super().recipe(run) | {"aliases": chosen} | more

    def together(self, run: Run, named: NamedAnswers) -> Together | None:
        """What all sources say, by `label.combine`."""
        from pipelines.combine import said_together

        if run.config.label.combine == "first":
            return None
        checked = self.checked(run)
        others = not_asked(run.table(next(iter(self.reads(run)))), checked)
        asked = {image: name for image, name in checked.items() if image not in others}
        return said_together(run, self.forms(run), named, asked)

    def reviewed(self, run: Run) -> Reviewed:
        """The decisions in the run's folder, unless `label.reviewed` is false."""
        return reviewed(run)

    def checked(self, run: Run) -> Mapping[int, str]:
        """The file `label.checked`, for the images of the discovery set, and what was decided on the review page.

        Copies that share an answer share the name.
        """
        from fgvr.names.checked import of_copies, of_images, read_checked

        place, found = run.config.label.checked, {}
        if place is not None:
            ids, uris = self._photos(run)
            found = of_images(read_checked(place), ids.tolist(), uris)
        found |= self.reviewed(run).names
        if run.config.label.duplicate_similarity is None or not found:
            return found
        rows = run.table("duplicates").read(["image_id", "photo_id"])
        return found | of_copies(found, rows["image_id"].to_pylist(), rows["photo_id"].to_pylist())

    def _photos(self, run: Run) -> tuple[Ids, list[str]]:
        """Ids and URIs of the photos to label."""
        ids = run.table(next(iter(self.reads(run)))).read(["image_id"])["image_id"].to_numpy()
        return ids, run.table("samples").take(ids, ["uri"])["uri"].to_pylist()

    def _not_labelled(self, run: Run, place: str) -> tuple[str, ...]:
        """A remark on the photos of `label.checked` that are none of these."""
        from fgvr.names.checked import read_checked, unmatched

        checked = read_checked(place)
        others = unmatched(checked, self._photos(run)[1])
        if not others:
            return ()
        return (
            f"label.checked: {len(others):,} of its {len(checked):,} photos are none of those to label, e.g. "
            f"{masked_value(others[0])}; their names are not used (a uri must be written as in issues.csv)",
        )

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Where answers are shared, also write whose answer each image got."""
        from fgvr.names.label_space import LABEL_SPACE_FILE, LabelSpace
        from fgvr.names.odd_names import odd_remarks, often
        from pipelines.checked import CHECKED, write_checked
        from pipelines.duplicates import SHARED, write_photos

        summary = super().compute(run, folder)
        space = LabelSpace.from_json(storage.read_bytes(folder.path(LABEL_SPACE_FILE)))
        log.info("labels: %s", often(space))
        summary.remarks = (*summary.remarks, *odd_remarks(space))
        if run.config.label.duplicate_similarity is not None:
            answers = run.table(next(iter(self.reads(run))))
            shared = write_photos(folder, run.table("duplicates"), list(not_asked(answers, self.reviewed(run).names)))
            summary.extra = {SHARED: shared} if shared else {}
        if looked := sorted(self.checked(run)):
            write_checked(folder, looked)
            summary.extra = {**summary.extra, CHECKED: len(looked)}
            log.info("labels: %s of them are names that a person has checked", f"{len(looked):,}")
        if run.config.label.checked is not None:
            summary.remarks = (*summary.remarks, *self._not_labelled(run, run.config.label.checked))
        summary.remarks = (*summary.remarks, *self.reviewed(run).remarks())
        return summary


def not_asked(answers: Table, names: Mapping[int, str]) -> dict[int, str]:
    """Those of the names by image id whose image has no row among the answers."""
    import numpy as np

    if not names:
        return {}
    ids = np.array(sorted(names), np.int64)
    asked = set(answers.find(ids, ["image_id"])["image_id"].to_pylist())
    return {image: names[image] for image in ids.tolist() if image not in asked}


@per_run
def labelled_ids(run: Run) -> Ids:
    """Ascending ids of the images in the labels table: the discovery set."""
    import numpy as np

    return np.sort(run.table("labels").read(["image_id"])["image_id"].to_numpy())


def _digest_of_csv(uri: str, columns: Sequence[str]) -> str:
    """What a CSV that a person edits says, whether or not a spreadsheet has saved it since."""
    from fgvr.text_files import plain_csv

    return hashlib.sha256(plain_csv(storage.read_bytes(uri), columns)).hexdigest()


def note_cut_answers(summary: StageSummary, limit: str) -> None:
    """Add a remark to a stage with answers: how many its token limit cut off.

    Args:
        summary: summary of the stage, with the count among its metrics.
        limit: the limit that cut them off, as "label.max_tokens = 32".
    """
    from fgvr.part_worker import CUT_ANSWERS

    count = int(summary.metrics.get(CUT_ANSWERS, 0))
    if count:
        words = f"{count:,} answer{' was' if count == 1 else 's were'} cut off at {limit}"
        summary.remarks = (*summary.remarks, f"{words}; answers without a whole name by then give no label")


def _write_aliases(folder: StageFolder, content: bytes) -> None:
    """Write the file of aliases. People edit it: when failed rows are retried, their edits are kept."""
    place = folder.path(ALIASES_FILE)
    before = storage.read_bytes(place) if storage.exists(place) else content
    if before != content:
        stem, ending = ALIASES_FILE.rsplit(".", 1)
        number = next(number for number in count(1) if not storage.exists(folder.path(f"{stem}.{number}.{ending}")))
        kept = f"{stem}.{number}.{ending}"
        folder.write_bytes(kept, before)
        log.info("%s: %s is written anew; the one that was there is kept as %s", folder.name, place, kept)
    folder.write_bytes(ALIASES_FILE, content)


def _wanted(config: Config) -> Sequence[str]:
    return ("labels", "votes") if len(config.label.sources) > 1 else ("labels",)


if __name__ == "__main__":
    stage_main(__doc__, wanted=_wanted)
