"""From conversations and pictures to what vLLM's engine takes."""

from __future__ import annotations

import json
from typing import Any

from fgvr.mllm.backend import Picture
from fgvr.mllm.prompts import Conversation, flatten, render
from fgvr.mllm.yes_no import token_ids


class VllmPrompts:
    """Renders with the model's own chat template, tokenises once, and lets vLLM expand the image's placeholder."""

    def __init__(self, engine: Any, folder: str, *, trust_remote_code: bool = False) -> None:
        """`engine` is a `vllm.LLM`, `folder` its model's."""
        self.tokenizer = engine.get_tokenizer()
        self._renderer = engine.renderer
        self._typed = bool(engine.model_config.is_multimodal_model)
        self._template = self.tokenizer
        if self._typed:
            from transformers import AutoProcessor

            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
            if getattr(processor, "chat_template", None) is not None:
                self._template = processor
        self._ids: dict[str, list[int]] = {}

    def text(self, conversation: Conversation) -> str:
        """The prompt's text, the image's placeholder unexpanded."""
        return render(self._template, conversation if self._typed else flatten(conversation))

    def ids(self, conversation: Conversation) -> list[int]:
        """Its token ids; remembered, since a stage asks the same about every image."""
        key = json.dumps(conversation)
        if key not in self._ids:
            if len(self._ids) > 10_000:  # a prompt of its own for every image: nothing worth remembering
                self._ids.clear()
            self._ids[key] = token_ids(self.tokenizer, self.text(conversation))
        return self._ids[key]

    def with_picture(self, ids: list[int], picture: Picture, *, whole: bool = False) -> Any:
        """A prompt with its image, preprocessed and expanded: an engine input.

        Args:
            ids: of the prompt with an unexpanded placeholder.
            picture: the image; one that the engine has seen under this content id is not preprocessed again.
            whole: hold the pixels in any case, also where the engine is believed to have them.
        """
        prompt = {
            "prompt_token_ids": ids,
            "multi_modal_data": {"image": picture.image},
            "multi_modal_uuids": {"image": [picture.content_id]},
        }
        (rendered,) = self._renderer.render_cmpl([prompt], skip_mm_cache=whole)
        if rendered["type"] != "multimodal":  # vLLM drops an image that it does not understand, silently
            raise ValueError("the engine took no image from the prompt: its template has no place for one")
        return rendered

    def without_picture(self, ids: list[int]) -> Any:
        """A text prompt as an engine input."""
        (rendered,) = self._renderer.render_cmpl([{"prompt_token_ids": ids}])
        return rendered


def client_errors() -> tuple[type[Exception], ...]:
    """What vLLM raises about a request that it will not take."""
    from vllm.exceptions import VLLMClientError

    return VLLMClientError, ValueError
