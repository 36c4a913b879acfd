"""full: the whole job, from photos without labels to a vocabulary, a small classifier, predictions and a report.

    python pipelines/full.py                                   # the demo: drawn birds, tiny models, two CPU cores
    python pipelines/full.py --config my.yaml --run.name birds # your own photos and models
    python pipelines/full.py --config my.yaml --plan           # print the bill (requests, hours, US$); start nothing

In: `ingest.source`. Out, in runs/<run.name>/: tables/<stage>/ (Parquet), report/report.html, report/metrics.json, the
trained models in tables/near and tables/makd, and the MLflow store. A second run computes only what is missing.
"""

from __future__ import annotations

from pipelines.command import stage_main
from pipelines.evaluate import show, whole_job
from pipelines.preflight import check

if __name__ == "__main__":
    stage_main(__doc__, wanted=lambda config: [*whole_job(config), "report"], check=check, show=show)
