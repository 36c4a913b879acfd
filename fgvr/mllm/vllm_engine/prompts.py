"""From conversations and pictures to vLLM's engine inputs; an image's questions are rendered only once and spliced.

Decoding, the HF processor, placeholder expansion and tokenising cost more than the engine's work on a question if the
image's prefix is shared. The questions of an image differ only in the ids after the image, so the first question is
rendered and the others take its head and their own tail. `splice_check` decides whether this is used.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from fgvr.images.pictures import Picture
from fgvr.mllm.prompts import Conversation, flatten, render
from fgvr.mllm.vllm_engine.private import Inputs, without_pixels
from fgvr.mllm.yes_no import token_ids


class VllmPrompts:
    """Renders with the model's own chat template, caches token ids, and lets vLLM expand the image's placeholder."""

    def __init__(self, engine: Any, folder: str, *, trust_remote_code: bool = False) -> None:
        """`engine` is a `vllm.LLM`, `folder` its model's."""
        self.tokenizer = engine.get_tokenizer()
        self._inputs = Inputs(engine)
        self._typed = bool(engine.model_config.is_multimodal_model)
        self._template = self.tokenizer
        if self._typed:
            processor = self._inputs.hf_processor()
            if processor is None:
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
        """Its token ids; cached, since a stage asks the same about every image."""
        key = json.dumps(conversation)
        with self._lock:  # a tokenizer is not thread-safe
            if key not in self._ids:
                if len(self._ids) > 10_000:  # every image has its own prompt: caching is useless
                    self._ids.clear()
                self._ids[key] = token_ids(self.tokenizer, self.text(conversation))
            return self._ids[key]

    def with_picture(self, ids: list[int], picture: Picture, *, whole: bool = False) -> Any:
        """A prompt with its image, preprocessed and expanded, as an engine input; thread-safe.

        Args:
            ids: token ids of the prompt with an unexpanded placeholder.
            picture: the image; one that was seen recently under this content id is not preprocessed again.
            whole: include the pixels even if the engine is assumed to have them.
        """
        return self._inputs.picture(ids, picture, whole=whole)

    def without_picture(self, ids: list[int]) -> Any:
        """A text prompt as an engine input."""
        return self._inputs.text(ids)


class QuestionPrompts(Protocol):
    """Engine inputs of the questions about a picture."""

    def first(self, picture: Picture) -> Any:
        """The first question's input, which carries the pixels; thread-safe."""
        ...

    def inputs(self, picture: Picture, first: Any = None) -> Iterator[Any]:
        """One input per question, in order, starting with `first` if given: submit it before taking the second."""
        ...

    def whole(self, picture: Picture, question: int) -> Any:
        """One question's input with the pixels, for an engine that has dropped them."""
        ...


class PlainPrompts:
    """Every question is rendered by itself; vLLM's own cache saves preprocessing the image again."""

    def __init__(self, prompts: VllmPrompts, questions: Sequence[list[int]]) -> None:
        """`questions`: token ids of the whole prompts, placeholders unexpanded."""
        self._prompts, self._questions = prompts, questions

    def first(self, picture: Picture) -> Any:
        """See QuestionPrompts."""
        return self._prompts.with_picture(self._questions[0], picture)

    def inputs(self, picture: Picture, first: Any = None) -> Iterator[Any]:
        """See QuestionPrompts."""
        yield first or self.first(picture)
        for ids in self._questions[1:]:
            yield self._prompts.with_picture(ids, picture)

    def whole(self, picture: Picture, question: int) -> Any:
        """See QuestionPrompts."""
        return self._prompts.with_picture(self._questions[question], picture, whole=True)


class CannotSplice(ValueError):
    """The model's expansion does more than replace the placeholder, so heads and tails cannot be joined."""


class SplicedPrompts(PlainPrompts):
    """The first question rendered, the others spliced; compared with full renders of a probe in the constructor."""

    def __init__(self, prompts: VllmPrompts, questions: Sequence[list[int]], probe: Picture) -> None:
        """Raises CannotSplice if a spliced prompt differs from its full render."""
        super().__init__(prompts, questions)
        # Whole: the engine never sees the probe, so it must not be assumed to have it cached.
        rendered = prompts.with_picture(questions[0], probe, whole=True)
        self._tails = tails(questions, after_image(rendered))
        for ids, spliced in zip(questions, self._splice(rendered), strict=True):
            full = prompts.with_picture(ids, probe, whole=True)
            if spliced["prompt_token_ids"] != full["prompt_token_ids"] or _places(spliced) != _places(full):
                raise CannotSplice("a spliced prompt differs from its full render")

    def inputs(self, picture: Picture, first: Any = None) -> Iterator[Any]:
        """See QuestionPrompts."""
        yield from self._splice(first or self.first(picture))

    def _splice(self, rendered: Any) -> Iterator[Any]:
        yield rendered
        ids = rendered["prompt_token_ids"]
        head = ids[: len(ids) - len(self._tails[0])]
        known = without_pixels(rendered)
        for tail in self._tails[1:]:
            yield {**known, "prompt_token_ids": head + tail}


def after_image(rendered: Any) -> list[int]:
    """Ids of a rendered prompt after the last token of its image."""
    ends = [place.offset + place.length for places in rendered["mm_placeholders"].values() for place in places]
    return list(rendered["prompt_token_ids"][max(ends) :])


def tails(questions: Sequence[list[int]], first_tail: list[int]) -> list[list[int]]:
    """What follows the image in each prompt.

    Args:
        questions: ids of the whole prompts, placeholders unexpanded.
        first_tail: ids after the image in the first question's *rendered* prompt.

    Raises:
        CannotSplice: the first prompt does not end in `first_tail`, or another begins differently.
    """
    start = len(questions[0]) - len(first_tail)
    if not first_tail or start <= 0 or questions[0][start:] != first_tail:
        raise CannotSplice("expansion changes the text after the image")
    head = questions[0][:start]
    if any(ids[:start] != head or len(ids) == start for ids in questions):
        raise CannotSplice("the prompts differ before the image")
    return [ids[start:] for ids in questions]


def _places(rendered: Any) -> list[tuple[str, int, int]]:
    return [
        (modality, place.offset, place.length)
        for modality, places in rendered["mm_placeholders"].items()
        for place in places
    ]
