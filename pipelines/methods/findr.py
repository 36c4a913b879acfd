"""findr: the MLLM says what the images show and who the expert is, then names each image as that expert."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from fgvr.config import Config, ImageLimits
from pipelines.asks import Asked, Load, naming, photo_tokens, sampled
from pipelines.label import AnswerStage, NameStage, label_settings, labelled_ids, token_limit
from pipelines.methods.prototypes import Prototypes
from pipelines.run_tables import Run
from pipelines.stage import Stage

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.baselines.finer_findr import Subject
    from fgvr.mllm.backend import Answer, Labeler
    from fgvr.mllm.label_worker import LabelSettings


REPLY_TOKENS = 256
TOLD = ("category", "unit", "expert")


class FindrMeta(Stage):
    """What a few images show, and which expert knows it: one row."""

    table = "findr_meta"
    one_call = True

    def workers(self, config: Config) -> str | None:
        """One worker of label."""
        return "label.workers"

    def model(self, config: Config) -> str | None:
        """The MLLM that names the images."""
        return "mllm"

    def consults(self, run: Run) -> Iterable[str]:
        """The labels, which decide the images to choose from."""
        return ("labels",)

    def reads(self, run: Run) -> Iterable[str]:
        """The locations of the images."""
        return ("samples",)

    def recipe(self, run: Run) -> dict[str, Any]:
        """The model, the prompt, and the ids of the images."""
        from cluster.fingerprint import digest_of_ids
        from fgvr.baselines.finer_findr import META_PROMPT, READER
        from fgvr.mllm.backends import backend_identity, exactly

        return {
            "mllm": backend_identity(exactly(run.config.mllm)),
            "ids": digest_of_ids(_shown(run)),
            "prompt": META_PROMPT,
            "tokens": REPLY_TOKENS,
            "reader": READER,
            "limits": run.config.ingest.limits,
        }

    def asks(self, run: Run) -> Asked:
        """One request with several images."""
        from fgvr.baselines.finer_findr import META_PROMPT
        from fgvr.mllm.request_tokens import FRAME, text_tokens

        side_by_side = run.config.baselines.findr.images * photo_tokens(run)
        return Asked(1, Load(1, FRAME + side_by_side + text_tokens(META_PROMPT), 0, REPLY_TOKENS))

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Ask in a worker."""
        import pyarrow as pa

        from cluster.once import run_once
        from fgvr.baselines import BaselineError
        from fgvr.baselines.finer_findr import read_subject
        from fgvr.mllm.backends import backend_engine, exactly
        from fgvr.part_worker import UNCOUNTED

        config = run.config
        uris = run.table("samples").take(_shown(run), ["uri"])["uri"].to_pylist()
        answer, remarks = run_once(
            _ask,
            *(uris, config.ingest.limits),
            workers=config.label.workers,
            engine=backend_engine(exactly(config.mllm)),
            keep_engine=run.still_asks(self),
        )
        if answer.text is None:
            reason = "no reply" if answer.failure is None else answer.failure.detail
            raise BaselineError(
                f"findr: the MLLM could not be asked what the images show ({reason}). Set baselines.findr.category, "
                ".unit and .expert"
            )
        subject = read_subject(answer.text, cut_off=f"{REPLY_TOKENS} tokens" if answer.cut else None)
        summary = folder.write_table(pa.table({k: [v] for k, v in asdict(subject).items()}))
        summary.remarks = remarks
        summary.metrics = {
            "prompt_tokens": float(answer.prompt_tokens),
            "output_tokens": float(answer.output_tokens),
        } | ({} if answer.tokens_known else {UNCOUNTED: 1.0})
        return summary


def _shown(run: Run) -> Ids:
    """A few images, spread evenly over the discovery set."""
    import numpy as np

    ids = labelled_ids(run)
    chosen: Ids = ids[np.unique(np.linspace(0, len(ids) - 1, run.config.baselines.findr.images).round().astype(int))]
    return chosen


def _ask(backend: Labeler, uris: list[str], limits: ImageLimits) -> tuple[Answer, tuple[str, ...]]:
    """The answer, and the backend's remarks on the request."""
    from fgvr.baselines import BaselineError
    from fgvr.baselines.finer_findr import META_PROMPT, side_by_side
    from fgvr.images.pictures import Picture
    from fgvr.images.read import ImageError, read_image
    from fgvr.mllm.backend import ImageRequest, Sampling
    from fgvr.mllm.prompts import image_conversation
    from fgvr.part_worker import remarks_of

    images = []
    for uri in uris:
        try:
            images.append(read_image(uri, limits))
        except ImageError:  # the other images are enough
            continue
    if not images:
        raise BaselineError("findr: none of the images that the MLLM is to be asked about can be read")
    request = ImageRequest(Picture.of(side_by_side(images)), image_conversation(META_PROMPT), Sampling(REPLY_TOKENS))
    return backend.label([request])[0], remarks_of(backend)


class FindrAnswers(AnswerStage):
    """The MLLM's answers about the discovery images, given as the expert."""

    table = "findr_answers"

    def consults(self, run: Run) -> Iterable[str]:
        """The tables that decide the images, and the expert where the config does not name one."""
        given = run.config.baselines.findr
        return ("labels",) if all(getattr(given, name) for name in TOLD) else ("labels", "findr_meta")

    def pays(self, run: Run) -> Iterable[str]:
        """Also the question who the expert is."""
        return [*self.reads(run), *(name for name in self.consults(run) if name == "findr_meta")]

    def which(self, run: Run) -> Ids:
        """The discovery set."""
        return labelled_ids(run)

    def settings(self, run: Run) -> LabelSettings:
        """One answer in free text per image."""
        settings = super().settings(run)
        prompt = _subject(run).fill(run.config.baselines.findr.prompt)
        free = replace(settings.sampling, max_tokens=run.config.label.max_tokens, structured=None)
        return replace(settings, prompt=prompt, sampling=free)

    def asks(self, run: Run) -> Asked:
        """One request per image."""
        settings, prompt = label_settings(run.config, several=False), run.config.baselines.findr.prompt
        return Asked(sampled(run.config, run.photos), naming(run, settings, prompt))


def _subject(run: Run) -> Subject:
    """The subject and expert from the config; the MLLM's answer where the config has none."""
    from fgvr.baselines.finer_findr import Subject

    given = {name: getattr(run.config.baselines.findr, name) for name in TOLD}
    if all(given.values()):
        return Subject(**given)
    said = run.table("findr_meta").read(list(TOLD)).to_pylist()[0]
    return Subject(**{name: given[name] or said[name] for name in given})


class FindrLabels(NameStage):
    """The names that the expert gave."""

    table = "findr_labels"
    answers = "findr_answers"
    merges = True

    def limit(self, config: Config) -> str:
        """The field for one answer in free text."""
        return token_limit(config.label)


class Findr(Prototypes):
    """Prototypes of the names that the expert gave."""

    table = "eval_findr"
    named_by = "findr_labels"
