"""Replies of a server kept by the content of their request, so that the same question is never paid for twice."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fgvr import storage
from fgvr.config.models import RUN_REPLIES, Mllm, OpenAIBackend
from fgvr.config.run import Config


class ReplyCache:
    """A folder of reply bodies, on a local disk or an object store.

    Safe for any number of threads and workers: a file is written whole or not at all, and two that ask the same
    question at once write the same thing under the same name.
    """

    def __init__(self, folder: str) -> None:
        """`folder` need not exist yet."""
        self.folder = folder

    def find(self, key: str) -> bytes | None:
        """The body kept under `key`; None where there is none."""
        try:
            return storage.read_bytes(self._place(key))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def keep(self, key: str, body: bytes) -> None:
        """Keep a reply that was good; raises OSError where the folder cannot be written."""
        storage.write_bytes(self._place(key), body)

    def _place(self, key: str) -> str:
        return storage.join(self.folder, key[:2], f"{key}.json")  # 256 folders: none gets too large to list


def reply_key(server: str, request: dict[str, Any]) -> str:
    """SHA-256, in hex, of all that decides a reply: the server, and the whole request with its image bytes."""
    text = json.dumps([server, request], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def with_run_replies(config: Config, folder: str) -> Config:
    """The config of a run in `folder`: backends that keep their replies with the run are told where that is."""

    def told(backend: Mllm) -> Mllm:
        if isinstance(backend, OpenAIBackend) and backend.reply_cache == RUN_REPLIES:
            return backend.model_copy(update={"reply_cache": storage.join(folder, "replies")})
        return backend

    llms = {"questions": config.questions.llm, "finer": config.baselines.finer.llm}
    kept = {name: None if llm is None else told(llm) for name, llm in llms.items()}
    finer = config.baselines.finer.model_copy(update={"llm": kept["finer"]})
    return config.model_copy(
        update={
            "mllm": told(config.mllm),
            "questions": config.questions.model_copy(update={"llm": kept["questions"]}),
            "baselines": config.baselines.model_copy(update={"finer": finer}),
        }
    )
