"""A run from the command line: config, Ray session, MLflow run, and clear errors.

What a session needs (Ray, stages, MLflow) is imported when one is opened: `--help` or a wrong flag do not need it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.console import show_progress
from cluster.ownership import TOLD, ends_when_told, owned
from fgvr import storage
from fgvr.commands import as_called
from fgvr.config import Config, load_config, to_yaml
from fgvr.errors import UserError, user_error_in
from fgvr.hub import names_kept
from fgvr.redact import masked_words, safe
from fgvr.storage_errors import refusal, told
from fgvr.versions import check_installation, missing_extra

if TYPE_CHECKING:
    from cluster.stage import RunContext

log = logging.getLogger(__name__)

INTERRUPTED = 130
"""Exit status after SIGINT: 128 plus the signal's number."""

PLAN_FLAGS = frozenset({"--plan", "--dry-run", "--dry_run"})
"""Flags of every script: check the config, print what the models will be asked and the cost, and start nothing."""

__all__ = ["UserError", "open_run", "run_main"]


@contextmanager
def open_run(config: Config) -> Iterator[RunContext]:
    """Open everything that a stage needs, and close it at the end. Nothing is written or started before the run is
    owned.

    Raises:
        RunFolderError: the run folder holds other files.
        RunTaken: another session works on the run.
        LeaseLost: another session has taken it over in the meantime.
        SessionError: no Ray session could be opened.
    """
    from cluster.budget import counted
    from cluster.lending import lending
    from cluster.metrics import endpoint
    from cluster.run_folder import CONFIG_FILE, check_run_folder, check_seen
    from cluster.run_record import recorded
    from cluster.session import ray_session
    from cluster.stage import RunContext
    from cluster.tracked_run import tracked_run
    from cluster.tracking import let_go

    folder = storage.join(storage.absolute(config.run.folder), config.run.name)
    config, take_over = _without_take_over(config)
    with ExitStack() as stack:
        stack.enter_context(names_kept())
        try:
            with told("run.folder", config.run.folder):
                check_run_folder(folder)
                stack.enter_context(owned(folder, take_over=take_over, on_lost=let_go))
                storage.write_bytes(storage.join(folder, CONFIG_FILE), to_yaml(config).encode())
        except OSError as error:
            raise UserError(f"run.folder = {config.run.folder}: cannot write there: {error}") from error
        record = stack.enter_context(recorded(folder))
        stack.enter_context(ray_session(config.cluster))
        stack.enter_context(ends_when_told())  # Ray's start has replaced the handlers
        stack.enter_context(lending())
        check_seen(folder)
        stack.enter_context(counted(folder, config.run.budget))
        tracker = stack.enter_context(tracked_run(config, folder))
        record.serves(endpoint())
        yield RunContext(config, folder, tracker, record=record)


def _without_take_over(config: Config) -> tuple[Config, bool]:
    """The config without the request to take over, which, once saved, would hold for every later session, too."""
    asked = config.run.take_over
    return config.model_copy(update={"run": config.run.model_copy(update={"take_over": False})}), asked


def _show_plan(config: Config, plan: Callable[[Config], str], check: Callable[[Config], None] | None) -> None:
    """Print the cost to stdout; then raise what would prevent the start."""
    problem: UserError | None = None
    try:
        if check is not None:
            check(config)
    except UserError as error:
        problem = error
    try:
        sys.stdout.write(as_called(safe(plan(config))))
    except Exception as error:
        raise problem or error from None
    if problem is not None:
        raise problem


def run_main(
    doc: str | None,
    presets: Path,
    work: Callable[[RunContext], object],
    *,
    check: Callable[[Config], None] | None = None,
    plan: Callable[[Config], str] | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """The body of every script in pipelines/.

    Args:
        doc: the script's docstring, which opens `--help`.
        presets: folder of the shipped presets.
        work: what to do inside the run.
        check: checks, before anything is started, that the config can work; raises a UserError.
        plan: returns the requests and cost of the work as text for `--plan` (or `--dry-run`); starts nothing.
        argv: arguments; None: those of the command line.

    Raises:
        SystemExit: for an error that the user can fix. Status 2 if the work has not started (a wrong config, a missing
        file, no Ray cluster at the address, another session that works on the run), and 1 if it has: then the same
        command resumes it. 3 where `run.budget` stopped it: with a larger budget the same command resumes it. By the
        convention of shells, 130 for Ctrl-C and 143 for SIGTERM.
    """
    show_progress()
    words = list(sys.argv[1:] if argv is None else argv)
    if masked_words(words) != words:
        log.warning(
            "a secret stands on the command line: everyone on this machine sees it there, and so do those who see "
            "Ray's list of jobs. Give it in the environment instead (docs/security.md)"
        )
    planned = plan is not None and not PLAN_FLAGS.isdisjoint(words)
    begun = False
    try:
        stage = Path(sys.argv[0]).stem  # --help of pipelines/label.py shows only label
        given = [word for word in words if word not in PLAN_FLAGS] if plan else words
        config = load_config(given, presets, as_called(doc or ""), stage=stage)
        check_installation()
        with names_kept():  # from the first check on
            if plan is not None and planned:
                _show_plan(config, plan, check)
                return
            if check is not None:
                check(config)
            with open_run(config) as context:
                begun = True
                work(context)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted{': the same command goes on from what is finished' if begun else ''}\n")
        raise SystemExit(INTERRUPTED) from None
    except SystemExit as end:
        if end.code in TOLD:
            sys.stderr.write(f"terminated{': the same command goes on from what is finished' if begun else ''}\n")
        raise
    except Exception as error:  # of any kind: its cause may be one that the user can fix
        known = user_error_in(error) or refusal(error) or missing_extra(error)
        if known is None:
            raise
        log.debug("the whole error", exc_info=error)
        sys.stderr.write(as_called(safe(f"{'stopped' if begun else 'not started'}: {known}\n")))
        raise SystemExit(getattr(known, "status", 1) if begun else 2) from None
