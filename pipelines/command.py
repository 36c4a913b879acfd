"""The command line of a stage's script: it computes the inputs of the stage's table, then the table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.run_tables import Run

if TYPE_CHECKING:
    from cluster.stage import RunContext
    from fgvr.config import Config

log = logging.getLogger(__name__)

PRESETS = Path(__file__).parent / "configs"


def stage_main(
    doc: str | None,
    *tables: str,
    wanted: Callable[[Config], Sequence[str]] | None = None,
    check: Callable[[Config], None] | None = None,
    show: Callable[[Run], None] | None = None,
    before_plan: Callable[[Config, Sequence[str]], Sequence[str]] | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """Compute tables of a run; print the bill before the first model is asked.

    Args:
        doc: the script's docstring, which opens `--help`.
        tables: names of the tables.
        wanted: returns the names of the tables for a config; used instead of `tables`.
        check: a check beyond those of the stages themselves; raises a UserError for a config that cannot work.
        show: prints the results on the console at the end.
        before_plan: what `--plan` does first, with the tables of a config that can work; returns lines to print.
        argv: arguments; None: those of the command line.
    """
    from cluster.run import run_main

    def names(config: Config) -> Sequence[str]:
        return tables if wanted is None else wanted(config)

    def work(context: RunContext) -> None:
        from pipelines.preflight import compute

        run = Run(context)
        made = compute(run, names(run.config))
        if show is not None:
            show(run)
        for table in made:
            log.info("%s: %s", table.name, table.uri)

    def look(config: Config) -> None:
        from pipelines.preflight import check_tables

        if check is not None:
            check(config)
        check_tables(config, names(config))

    def plan(config: Config) -> str:
        from pipelines.estimate import plan as text

        if before_plan is None:
            return text(config, names(config))
        look(config)
        lines = before_plan(config, names(config))
        return "".join(f"{line}\n" for line in lines) + text(config, names(config))

    run_main(doc, PRESETS, work, check=look, plan=plan, argv=argv)
