"""What libraries may say on the console: warnings and errors, so that a run's own progress stays readable.

Everything else still goes to Ray's log files (under /tmp/ray/session_latest/logs unless Ray was told otherwise).
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from types import TracebackType

from cluster.ray_private import CHATTY
from fgvr.redact import safe

# Libraries and the level from which they are shown.
LEVELS = {
    "alembic": logging.WARNING,
    "httpx": logging.WARNING,
    "botocore": logging.WARNING,
    "aiobotocore": logging.WARNING,
    "py4j": logging.WARNING,
    "urllib3.connectionpool": logging.ERROR,  # each try of a call to a tracking server that is away; we say it once
    "sentence_transformers": logging.WARNING,
    "faiss.loader": logging.WARNING,
    "ray.train": logging.WARNING,
    "ray.tune": logging.WARNING,
    **CHATTY,
}


class SafeFormatter(logging.Formatter):
    """Messages without secrets and terminal commands: they may quote addresses, file names and models' answers."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with its traceback if it has one."""
        return safe(super().format(record))


def show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The traceback of an error that nobody foresaw, without secrets; for `sys.excepthook`."""
    sys.stderr.write(safe("".join(traceback.format_exception(kind, error, trace))))


def show_progress() -> None:
    """Messages of the project on stderr, with the time; of libraries only warnings (some log to the root logger)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    sys.excepthook = show_error
    for package in ("fgvr", "cluster", "pipelines", "tune", "__main__"):
        logging.getLogger(package).setLevel(logging.INFO)


def quiet_before_start() -> None:
    """Settings that Ray and MLflow read when they are imported or started; what the user has set stays."""
    if "RAY_BACKEND_LOG_LEVEL" not in os.environ:
        # The C++ core of the driver writes lines of its own, past Python's logging, about what is no fault of a run
        # (actors that end while something of theirs lies in the object store); its log level is the only switch.
        # putenv instead of os.environ: the driver alone, while Ray's other processes go on logging to their files.
        # The core says once that it was told so, before it obeys, past Python to file descriptor 2. Only turning that
        # away while Ray starts would hide the line, and with it whatever else goes wrong in this time.
        os.putenv("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # MLflow sets its logger anew when it is imported
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # MLflow asks for git's revision; a container has no git
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)
