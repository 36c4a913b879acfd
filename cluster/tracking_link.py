"""The connection to a tracking server: calls with a timeout, and a pause after a failed call.

A server that is down or hangs costs a run only seconds: the first call that fails or times out closes the link, and
calls are tried again after growing pauses. MLflow itself would retry each call seven times, for minutes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from fgvr.errors import UserError
from fgvr.failures import one_line
from fgvr.redact import safe

T = TypeVar("T")

CALL_SECONDS = 15.0
FIRST_PAUSE, LONGEST_PAUSE = 15.0, 900.0
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
RETRIES_HERE = "1"
NOT_TAKEN = frozenset(
    {
        "BAD_REQUEST",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "MALFORMED_REQUEST",
        "MAX_LIST_SIZE_EXCEEDED",
        "QUOTA_EXCEEDED",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_CONFLICT",
        "RESOURCE_DOES_NOT_EXIST",
        "RESOURCE_LIMIT_EXCEEDED",
    }
)
"""MLflow's codes for a request that would fail again; all other codes are temporary faults of the server."""


class Away(Exception):
    """The server was not asked, or gave no usable answer; the same call may work later."""


class Refused(Exception):
    """The server refused the request."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code

    @property
    def missing(self) -> bool:
        """Whether the requested thing does not exist."""
        return self.code == "RESOURCE_DOES_NOT_EXIST"

    @property
    def exists(self) -> bool:
        """Whether the thing to create exists already."""
        return self.code == "RESOURCE_ALREADY_EXISTS"


class Link:
    """The link to one server; thread-safe.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause, self._closed_until = 0.0, float("-inf")
        self._hanging: threading.Thread | None = None

    def ready(self) -> bool:
        """Whether a call would be sent now."""
        if self._hanging is not None and self._hanging.is_alive():
            return False
        return self._clock() >= self._closed_until

    def try_soon(self) -> None:
        """End the pause: the next call is sent, whatever failed before."""
        self._closed_until = float("-inf")

    def call(self, do: Callable[[], T], seconds: float = CALL_SECONDS) -> T:
        """The result of `do`, which is abandoned after `seconds`.

        Raises:
            Away: it failed, timed out, or was not sent because the link is closed.
            Refused: it would fail again.
        """
        if not self.ready():
            raise Away("not asked: it did not answer before")
        try:
            result = self._bounded(do, seconds)
        except Exception as error:  # from MLflow, requests, SQLAlchemy, boto3 …, without a common base class
            refusal = _refusal(error)
            if refusal is not None:
                self._opened()
                raise refusal from error
            self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)
            self._closed_until = self._clock() + self._pause
            raise Away(_words(error)) from error
        self._opened()
        return result

    def _opened(self) -> None:
        self._pause, self._closed_until = 0.0, float("-inf")

    def _bounded(self, do: Callable[[], T], seconds: float) -> T:
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(do())
            except BaseException as error:  # passed to the caller
                errors.append(error)

        thread = threading.Thread(target=work, name="mlflow", daemon=True)  # a hanging call keeps no process alive
        thread.start()
        thread.join(seconds)
        if errors:
            raise errors[0]
        if not results:
            self._hanging = thread
            raise TimeoutError(f"no answer after {seconds:.0f} s")
        return results[0]


def _refusal(error: Exception) -> Refused | None:
    """The error as Refused, if the call would fail again; None for a fault of the server or the network."""
    from mlflow.exceptions import InvalidUrlException, MlflowException
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException
    from sqlalchemy.exc import ArgumentError

    if isinstance(error, UnsupportedModelRegistryStoreURIException | InvalidUrlException | ArgumentError):
        return Refused(_words(error))
    if isinstance(error, MlflowException):
        code = str(error.error_code)
        return Refused(_words(error), code) if code in NOT_TAKEN else None
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError | UserError):
        return None
    ours = FileNotFoundError | UserError | ImportError | ValueError | TypeError | LookupError | AttributeError
    return Refused(_words(error)) if isinstance(error, ours) else None


def _words(error: Exception) -> str:
    return safe(one_line(str(error) or type(error).__name__))[:400]
