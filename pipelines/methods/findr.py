"""findr: the MLLM says what the images show and who knows it, and names each as that expert; then prototypes."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pyarrow as pa

from cluster.once import run_once
from cluster.stage import RunContext, StageFolder, StageSummary, digest_of_ids
from fgvr.baselines import BaselineError
from fgvr.baselines.expert import META_PROMPT, READER, Subject, read_subject, side_by_side
from fgvr.config import ImageLimits
from fgvr.images import ImageError, read_image
from fgvr.mllm.backend import Answer, ImageRequest, Labeler, Picture, Sampling
from fgvr.mllm.backends import backend_engine, backend_identity, exactly
from fgvr.mllm.label_space import read_label_space
from fgvr.mllm.prompts import image_conversation
from fgvr.part_worker import remarks_of
from fgvr.tables import Table
from fgvr.token_counts import UNCOUNTED
from pipelines import label
from pipelines.flow import Flow
from pipelines.methods.clip_classes import ClipClasses, Ids
from pipelines.methods.prototypes import of_names

REPLY_TOKENS = 256


def classes(context: RunContext, flow: Flow) -> ClipClasses:
    """Prototypes of the expert's names."""
    ids: Ids = np.sort(flow.labels.read(["image_id"])["image_id"].to_numpy())
    prompt = _subject(context, flow.samples, ids).fill(context.config.baselines.findr.prompt)
    answers = label.answer(context, "findr_answers", flow.samples, ids, prompt=prompt)
    limit = label.token_limit(context.config.label)
    named = label.name_answers(context, "findr_labels", [answers], None, limit=limit, merge=True)
    return of_names(context, flow, read_label_space(named).labels, named)


def _subject(context: RunContext, samples: Table, ids: Ids) -> Subject:
    """What the config says of the images, and for the rest what the MLLM says."""
    config = context.config.baselines.findr
    given = {name: getattr(config, name) for name in ("category", "unit", "expert")}
    if all(given.values()):
        return Subject(**given)
    said = _meta(context, samples, ids).read(["category", "unit", "expert"]).to_pylist()[0]
    return Subject(**{name: given[name] or said[name] for name in given})


def _meta(context: RunContext, samples: Table, ids: Ids) -> Table:
    """The MLLM's answer about a few images, evenly spread over the discovery set; one row."""
    config = context.config
    mllm = exactly(config.mllm)
    chosen = ids[np.unique(np.linspace(0, len(ids) - 1, config.baselines.findr.images).round().astype(int))]

    def compute(folder: StageFolder) -> StageSummary:
        uris = samples.take(chosen, ["uri"])["uri"].to_pylist()
        answer, remarks = run_once(
            _ask, uris, config.ingest.limits, workers=config.label.workers, engine=backend_engine(mllm)
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

    decides = {
        "mllm": backend_identity(mllm),
        "ids": digest_of_ids(chosen),
        "prompt": META_PROMPT,
        "tokens": REPLY_TOKENS,
        "reader": READER,
        "limits": config.ingest.limits,
    }
    return context.stage("findr_meta", decides=decides, inputs=[samples], compute=compute, workers=config.label.workers)


def _ask(backend: Labeler, uris: list[str], limits: ImageLimits) -> tuple[Answer, tuple[str, ...]]:
    """The answer, and the model's remarks on how it was asked."""
    images = []
    for uri in uris:
        try:
            images.append(read_image(uri, limits))
        except ImageError:  # the others will do
            continue
    if not images:
        raise BaselineError("findr: none of the images that the MLLM is to be asked about can be read")
    request = ImageRequest(Picture.of(side_by_side(images)), image_conversation(META_PROMPT), Sampling(REPLY_TOKENS))
    return backend.label([request])[0], remarks_of(backend)
