"""From conversations and pictures to what vLLM's engine takes."""

from __future__ import annotations

import json
import threading
from typing import Any

from fgvr.mllm.backend import Picture
from fgvr.mllm.prompts import Conversation, flatten, render
from fgvr.mllm.vllm_private import Inputs
from fgvr.mllm.yes_no import token_ids


class VllmPrompts:
    """Renders with the model's own chat template, tokenises once, and lets vLLM expand the image's placeholder."""

    def __init__(self, engine: Any, folder: str, *, trust_remote_code: bool = False) -> None:
        """`engine` is a `vllm.LLM`, `folder` its model's."""
        self.tokenizer = engine.get_tokenizer()
        self._inputs = Inputs(engine)
        self._typed = bool(engine.model_config.is_multimodal_model)
        self._template = self.tokenizer
        if self._typed:
            from transformers import AutoProcessor

            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
            if getattr(processor, "chat_template", None) is not None:
                self._template = processor
        self._ids: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    def text(self, conversation: Conversation) -> str:
        """The prompt's text, the image's placeholder unexpanded."""
        return render(self._template, conversation if self._typed else flatten(conversation))

    def ids(self, conversation: Conversation) -> list[int]:
        """Its token ids; remembered, since a stage asks the same about every image."""
        key = json.dumps(conversation)
        with self._lock:  # no two threads use a tokenizer
            if key not in self._ids:
                if len(self._ids) > 10_000:  # a prompt of its own for every image: nothing worth remembering
                    self._ids.clear()
                self._ids[key] = token_ids(self.tokenizer, self.text(conversation))
            return self._ids[key]

    def with_picture(self, ids: list[int], picture: Picture, *, whole: bool = False) -> Any:
        """A prompt with its image, preprocessed and expanded: an engine input; for any thread.

        Args:
            ids: of the prompt with an unexpanded placeholder.
            picture: the image; one that was seen lately under this content id is not preprocessed again.
            whole: hold the pixels in any case, also where the engine is believed to have them.
        """
        return self._inputs.picture(ids, picture, whole=whole)

    def without_picture(self, ids: list[int]) -> Any:
        """A text prompt as an engine input."""
        return self._inputs.text(ids)
