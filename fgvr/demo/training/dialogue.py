"""The texts that the tiny MLLM is trained on: prompts in both orders, the chat template's pieces, a tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from transformers import PreTrainedTokenizerFast

from fgvr.demo.questions import QUESTIONS
from fgvr.demo.species import SPECIES
from fgvr.demo.training.mllm_model import IMAGE_TOKENS
from fgvr.demo.training.tokenizers import mllm_tokenizer

LABEL_PROMPT: Final = "Provide a best fine-grained class label for this image."
INSTRUCTION: Final = "The answer must always be either Yes or No (do not provide any other response)."
HEAD: Final = "<|im_start|>user\n<img>" + "<IMG_CONTEXT>" * IMAGE_TOKENS + "</img>\n"
TAIL: Final = "<|im_end|>\n<|im_start|>assistant\n"
END: Final = "<|im_end|>"
VOCABULARY: Final = 640
SPECIES_NAMES: Final = tuple(species.name for species in SPECIES)
QUESTION_TEXTS: Final = tuple(question.text for question in QUESTIONS)


def training_tokenizer(
    names: Sequence[str] = SPECIES_NAMES, questions: Sequence[str] = QUESTION_TEXTS
) -> PreTrainedTokenizerFast:
    """The tokenizer of a tiny MLLM: its merges make one token of every word of the prompts and names."""
    answers = ["Yes", "No", " Yes", " No", "user\n", "assistant\n", "\n", "system\n"] * 50
    prompts = [LABEL_PROMPT, INSTRUCTION] * 20 + list(questions) * 5
    repeated = list(names) * 10
    spaced = [f" {text}" for text in prompts + repeated]
    return mllm_tokenizer(answers + prompts + repeated + spaced, vocabulary=VOCABULARY)


@dataclass(frozen=True)
class Segments:
    """Token ids of everything that can follow an image; a question's answer is one token.

    Attributes:
        head: chat template up to the image's end.
        instruction: the shared instruction, first in the shared layout.
        shared: for each question what follows the instruction, up to the answer.
        whole: for each question the paper's order, question then instruction, up to the answer.
        label: the label prompt up to the answer.
        names: for each class its name and the end token.
        yes, no, end: single tokens.
    """

    head: list[int]
    instruction: list[int]
    shared: list[list[int]]
    whole: list[list[int]]
    label: list[int]
    names: list[list[int]]
    yes: int
    no: int
    end: int


def segments(
    tokenizer: PreTrainedTokenizerFast,
    names: Sequence[str] = SPECIES_NAMES,
    questions: Sequence[str] = QUESTION_TEXTS,
) -> Segments:
    """Tokenise every text once; checks that cutting whole prompts at the seams gives the same tokens.

    Raises:
        ValueError: the tokenizer joins tokens across a seam, or an answer is not one token.
    """

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    head, instruction = ids(HEAD), ids(INSTRUCTION)
    shared = [ids(f" {question}{TAIL}") for question in questions]
    whole = [ids(f"{question} {INSTRUCTION}{TAIL}") for question in questions]
    yes, no, end = ids("Yes"), ids("No"), ids(END)
    for question, tail in zip(questions, shared, strict=True):
        full = ids(f"{HEAD}{INSTRUCTION} {question}{TAIL}Yes{END}")
        if full != head + instruction + tail + yes + end or len(yes + no + end) != 3:
            raise ValueError(f"the tokenizer joins the pieces of the prompt for {question!r}")
    endings = [ids(name + END) for name in names]
    return Segments(head, instruction, shared, whole, ids(LABEL_PROMPT + TAIL), endings, yes[0], no[0], end[0])
