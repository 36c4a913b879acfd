"""What is asked, and how it becomes the prompt text that a model was trained on.

Conversations are written in the typed form of chat templates; the model's own template (from its processor, or from
its tokenizer for text models) turns them into a prompt. No template is written here: a hand-written one would differ
from the model's in a system message or a line break, and change p(yes).
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypeAlias

from fgvr.config.makd import ASPECT_INSTRUCTION
from fgvr.config.near import LABEL_PROMPT

Conversation: TypeAlias = list[dict[str, Any]]
"""Messages `{"role", "content"}`, content being a list of `{"type": "image"}` and `{"type": "text", "text"}` parts."""

AspectOrder: TypeAlias = Literal["shared_prefix", "paper"]
"""`shared_prefix`: image, instruction, question (everything before the question is the same for all questions of an
image); `paper`: image, question, instruction, as in MaKD's code."""


class ChatTemplate(Protocol):
    """An HF processor or tokenizer."""

    def apply_chat_template(self, conversation: Conversation, *, add_generation_prompt: bool, tokenize: bool) -> str:
        """The prompt's text."""
        ...


def image_conversation(prompt: str = LABEL_PROMPT, system: str | None = None) -> Conversation:
    """Ask about one image; the image comes first, as in both papers' code."""
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    return [*_system(system), {"role": "user", "content": content}]


def aspect_conversation(
    question: str,
    order: AspectOrder = "shared_prefix",
    instruction: str = ASPECT_INSTRUCTION,
    system: str | None = None,
) -> Conversation:
    """Ask one yes/no question about one image (MaKD, section 3.2; its code writes question, blank, instruction)."""
    parts = (instruction, question) if order == "shared_prefix" else (question, instruction)
    return image_conversation(" ".join(parts), system)


def text_conversation(prompt: str, system: str | None = None) -> Conversation:
    """Ask a language model, without an image."""
    return [*_system(system), {"role": "user", "content": [{"type": "text", "text": prompt}]}]


def render(template: ChatTemplate, conversation: Conversation) -> str:
    """The prompt text from the model's own template, up to where the reply begins.

    Raises ValueError if the model has no template: guessing one would silently give wrong probabilities.
    """
    if getattr(template, "chat_template", None) is None:
        raise ValueError(
            "the model has no chat template (chat_template.jinja, or in processor_config.json or"
            " tokenizer_config.json): use an instruction-tuned checkpoint, or add the template of its authors"
        )
    return str(template.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False))


def flatten(conversation: Conversation) -> Conversation:
    """The same messages with plain strings as content, which every text model's template understands.

    Raises ValueError for a conversation that holds an image.
    """
    flat: Conversation = []
    for message in conversation:
        if any(part["type"] != "text" for part in message["content"]):
            raise ValueError("a text model cannot be asked about an image")
        text = "\n".join(part["text"] for part in message["content"])
        flat.append({"role": message["role"], "content": text})
    return flat


def _system(text: str | None) -> Conversation:
    return [] if text is None else [{"role": "system", "content": [{"type": "text", "text": text}]}]
