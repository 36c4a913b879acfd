"""Limits the console output of libraries to warnings and errors, so that a run's own progress stays readable.

Everything else still goes to Ray's log files (/tmp/ray/session_latest/logs by default).
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from types import TracebackType

from cluster.ray_private import CHATTY
from fgvr.commands import as_called
from fgvr.redact import safe

# Libraries and the lowest level that is shown.
LEVELS = {
    "alembic": logging.WARNING,
    "httpx": logging.WARNING,
    "botocore": logging.WARNING,
    "aiobotocore": logging.WARNING,
    "py4j": logging.WARNING,
    "urllib3.connectionpool": logging.ERROR,  # logs every retry of a call to a tracking server
    "sentence_transformers": logging.WARNING,
    "faiss.loader": logging.WARNING,
    "ray.train": logging.WARNING,
    "ray.tune": logging.WARNING,
    **CHATTY,
}


class SafeFormatter(logging.Formatter):
    """Removes secrets and terminal escape codes from messages, which may quote addresses, files and answers."""

    def format(self, record: logging.LogRecord) -> str:
        """The formatted line, with its traceback if there is one."""
        return as_called(safe(super().format(record)))


def show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an unexpected error, without secrets; for `sys.excepthook`."""
    sys.stderr.write(safe("".join(traceback.format_exception(kind, error, trace))))


def show_progress() -> None:
    """Show the project's messages on stderr, with the time; from libraries only warnings (some use the root logger)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    sys.excepthook = show_error
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own: each line came twice
    for package in ("fgvr", "cluster", "pipelines", "tune", "__main__"):
        logging.getLogger(package).setLevel(logging.INFO)


def quiet_before_start() -> None:
    """Set what Ray and MLflow read when they are imported or started; values that the user has set are kept."""
    if "RAY_BACKEND_LOG_LEVEL" not in os.environ:
        # The C++ core of the driver bypasses Python's logging and reports harmless events (actors that end while the
        # object store still holds some of their objects); its log level is the only switch.
        # putenv instead of os.environ: only the driver is affected; Ray's other processes still log to their files.
        # The core announces the new level once on file descriptor 2, before it applies it. Hiding that line would mean
        # redirecting the descriptor while Ray starts, which would hide real errors, too.
        os.putenv("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # MLflow resets its logger on import
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # MLflow asks for git's revision; a container has no git
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)
