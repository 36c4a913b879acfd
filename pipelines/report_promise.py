"""The report's promised precision: the checked photos, the curve of thresholds, and who decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.calibration import student_of
from pipelines.run_tables import Run

if TYPE_CHECKING:
    from fgvr.report.promise import PromiseFacts
    from fgvr.report.results import Costs


def promise_of(run: Run, costs: Costs | None) -> PromiseFacts:
    """What is promised of the run's predictions; its tables are finished.

    Args:
        run: for its tables.
        costs: of the methods, with which the curve is priced; None: no prices.
    """
    import numpy as np

    from fgvr.report.promise import Prices, promise_facts

    infer, calibration, decided = run.config.infer, run.table("calibration"), run.table("decided")
    rows = calibration.read(["score", "right"])
    priced = {} if costs is None else {name: each.usd_million for name, each in costs.methods.items()}
    own = None if infer.model is not None else priced.get(infer.trained)
    return promise_facts(
        scores=rows["score"].to_numpy().astype(np.float64),
        right=rows["right"].to_numpy(),
        pool=student_of(run).pool().name,
        name=calibration.extra["name"],
        sentences=[*calibration.extra.get("remarks", ()), *decided.extra.get("remarks", ())],
        decided_by=decided.extra["decided_by"],
        confidence=infer.confidence,
        prices=Prices(own, priced.get("mllm")),
    )
