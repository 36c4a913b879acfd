"""The whole job: photos without labels in, a vocabulary, a small classifier, predictions and a report out.

    python pipelines/full.py                                   # the demo: drawn birds, tiny models, two CPU cores
    python pipelines/full.py --config my.yaml --run.name birds # your own photos and models
    python pipelines/full.py --config my.yaml --plan           # what the models would be asked, hours and US$; no start

In: `ingest.source`. Out, in runs/<run.name>/: tables/<stage>/ (Parquet), report/report.html, report/metrics.json, the
trained models in tables/near and tables/makd, and the MLflow store. Running it again does what is missing.
"""

from __future__ import annotations

from cluster.capacity import check_all
from pipelines import evaluate
from pipelines.flow import Flow, stage_main
from pipelines.needs import full_targets
from pipelines.plan import tell_bill
from pipelines.preflight import check, check_splits
from pipelines.student_task import check_teacher
from pipelines.teacher import asks_mllm


def run(flow: Flow) -> None:
    """All stages in the order in which a person would look at them; each is skipped when it is done."""
    check_all(flow.context.config)  # a stage that cannot start shows now, not after the hours of the ones before it
    check_splits(flow.context.config, flow.samples.extra["splits"])
    tell_bill(flow, full_targets(flow.context.config))
    check_teacher(flow, near_is_there=False)
    flow.labels  # noqa: B018  # asking for a table computes it
    flow.embeddings  # noqa: B018
    flow.candidates  # noqa: B018
    flow.near  # noqa: B018
    check_teacher(flow, near_is_there=True)
    flow.questions  # noqa: B018
    if flow.context.config.makd.aspect_targets == "mllm":
        flow.aspects  # noqa: B018
    if asks_mllm(flow.context.config.makd):
        flow.class_scores  # noqa: B018
    evaluate.ask_mllm(flow.context, flow)
    if flow.context.config.makd.base:
        flow.base  # noqa: B018
    flow.makd  # noqa: B018
    flow.predictions  # noqa: B018
    evaluate.show(flow)


if __name__ == "__main__":
    stage_main(__doc__, run, check=check, asks=full_targets, tells_itself=True)
