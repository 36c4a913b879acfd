"""A configured model before it is started: named, found, checked against its workers; asked of the driver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

from fgvr.config.base import Workers
from fgvr.config.models import Mllm
from fgvr.config.run import Cluster
from fgvr.mllm.backend import MllmBackend

Size = tuple[int, int]
"""Width and height of an image, pixels."""
ASSUMED_BILLIONS = 8.0
"""Parameters assumed of a model whose name does not tell and whose weights are elsewhere."""


@dataclass(frozen=True)
class AskedBy:
    """Who will ask a model.

    Attributes:
        field: where the config has the workers.
        workers: that hold the model.
        place: where the config has the model.
        cluster: where they run.
    """

    field: str
    workers: Workers
    place: str
    cluster: Cluster


class KeptShare(Protocol):
    """A backend that answers from kept replies alone."""

    @property
    def share(self) -> float:
        """Of the requests made so far, those whose reply is kept: 0 to 1."""
        ...


class Provider(ABC):
    """What can be known of a configured model without starting it, and how to start it.

    Every method is abstract: `fgvr.mllm.backends.provider` cannot make a kind that leaves one out.
    """

    @abstractmethod
    def start(self, *, vision: bool) -> MllmBackend:
        """See `fgvr.mllm.backends.make_backend`."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides the answers; raises ModelError for a model that cannot be found. Fetches no weights."""

    @abstractmethod
    def pinned(self) -> Mllm:
        """The same model for workers, which ask for it later: what has versions with the one that it means now."""

    @abstractmethod
    def check(self, asked: AskedBy) -> str | None:
        """What one of these workers needs for it, in words; None: nothing that is known here.

        Raises:
            UserError: it cannot work on them; names the field.
        """

    @abstractmethod
    def image_tokens(self, size: Size) -> int | None:
        """Tokens of a photo of this size in a prompt; None where it is not known how the model cuts it."""

    @abstractmethod
    def billions(self) -> float | None:
        """Parameters that a token takes, billions; None of a model that does not compute on the workers."""

    @abstractmethod
    def kept_replies(self) -> KeptShare | None:
        """A stand-in that asks nobody and answers from kept replies; None where none are kept."""
