"""Conversations, and their rendering by a model's own template."""

import pytest
from tiny_checkpoints import INTERNVL_TEMPLATE, tokenizer
from transformers import PreTrainedTokenizerFast

from fgvr.mllm.prompts import aspect_conversation, flatten, image_conversation, render, text_conversation


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    made = tokenizer(["<|im_end|>", "<|im_start|>", "<IMG_CONTEXT>"], eos_token="<|im_end|>")
    made.chat_template = INTERNVL_TEMPLATE
    return made


def test_a_label_prompt_by_the_model_s_template(words: PreTrainedTokenizerFast) -> None:
    text = render(words, image_conversation("Name it"))
    assert text == "<|im_start|>user\n<IMG_CONTEXT>\nName it<|im_end|>\n<|im_start|>assistant\n"


def test_a_system_message_comes_first(words: PreTrainedTokenizerFast) -> None:
    text = render(words, image_conversation("Name it", system="You are a botanist."))
    assert text.startswith("<|im_start|>system\nYou are a botanist.<|im_end|>\n<|im_start|>user\n<IMG_CONTEXT>\n")


def test_both_orders_of_question_and_instruction() -> None:
    shared = aspect_conversation("Is it blue?", "shared_prefix", "Yes or No.")
    paper = aspect_conversation("Is it blue?", "paper", "Yes or No.")
    assert shared[0]["content"][1]["text"] == "Yes or No. Is it blue?"
    assert paper[0]["content"][1]["text"] == "Is it blue? Yes or No."
    assert shared[0]["content"][0] == {"type": "image"}


def test_a_model_without_a_template_is_refused() -> None:
    with pytest.raises(ValueError, match="the model has no chat template"):
        render(tokenizer(["<s>"]), image_conversation())


def test_text_models_get_plain_strings() -> None:
    assert flatten(text_conversation("Hi", system="Be brief")) == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hi"},
    ]
    with pytest.raises(ValueError, match="cannot be asked about an image"):
        flatten(image_conversation())
