"""A training example is a tree of branches; each must read as if it stood alone after the image."""

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.demo_models.mllm_language import (
    HEAD,
    INSTRUCTION,
    LABEL_PROMPT,
    TAIL,
    Layout,
    ask,
    branch_logits,
    cut,
    label_branches,
    question_branches,
    read_trunk,
    segments,
    training_tokenizer,
)
from benchmarks.demo_models.mllm_model import new_mllm, new_processor, pixel_values
from fgvr.demo.questions import QUESTIONS


@pytest.fixture(scope="module")
def tokenizer():
    return training_tokenizer()


@pytest.fixture(scope="module")
def parts(tokenizer):
    return segments(tokenizer)


@torch.no_grad()
@pytest.mark.parametrize("shared", [True, False])
def test_a_branch_gives_the_same_logits_as_its_own_prompt(tokenizer, parts, shared):
    torch.manual_seed(0)
    model = new_mllm(tokenizer).eval()
    layout = Layout(parts.instruction, parts.shared, 3) if shared else Layout([], parts.whole, 3)
    truth = np.zeros((2, len(QUESTIONS)), bool)
    truth[0, [4, 7]] = True
    features = torch.randn(2, 16, 512)
    trunk = read_trunk(model, parts.head + layout.trunk, features)
    questions = question_branches(layout, parts, truth, np.random.default_rng(0))
    names = label_branches(parts, np.array([-1, 5]))
    rng = np.random.default_rng(0)
    texts = []
    for owner, row in enumerate(truth):
        for q in ask(row, 3, rng):
            both = (INSTRUCTION, QUESTIONS[q].text) if shared else (QUESTIONS[q].text, INSTRUCTION)
            texts.append((owner, " ".join(both) + TAIL + ("Yes" if row[q] else "No") + "<|im_end|>"))
    expected, targets = plain_logits(model, tokenizer, features, texts, answer=2)
    torch.testing.assert_close(branch_logits(model, trunk, questions), expected, atol=1e-5, rtol=1e-4)
    assert questions.target.tolist() == targets
    named = [(1, LABEL_PROMPT + TAIL + "Barred Crimson Finch<|im_end|>")]
    expected, targets = plain_logits(model, tokenizer, features, named, answer=4)
    actual = branch_logits(model, cut(trunk, len(parts.head)), names)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    assert names.target.tolist() == targets


def plain_logits(model, tokenizer, features, texts, answer):
    """One whole prompt a forward, nothing shared: logits and targets of the last ``answer`` tokens."""
    logits, targets = [], []
    for owner, text in texts:
        ids = tokenizer(HEAD + text, return_tensors="pt").input_ids
        embeddings = model.model.language_model.embed_tokens(ids)
        embeddings[ids == model.config.image_token_id] = model.model.multi_modal_projector(features[owner])
        hidden = model.model.language_model(inputs_embeds=embeddings).last_hidden_state
        logits.append(model.lm_head(hidden)[0, -answer - 1 : -1])
        targets += ids[0, -answer:].tolist()
    return torch.cat(logits), targets


def test_birds_without_a_name_have_no_label_branch(parts):
    assert label_branches(parts, np.array([-1, -1])) is None


def test_as_many_questions_with_yes_as_with_no_are_asked():
    truth = np.zeros(32, bool)
    truth[:10] = True
    asked = ask(truth, 12, np.random.default_rng(0))
    assert len(set(asked.tolist())) == 12
    assert truth[asked].sum() == 6
    few = np.zeros(32, bool)
    few[3] = True
    assert few[ask(few, 12, np.random.default_rng(0))].sum() == 1


def test_answers_are_single_tokens_and_unknown_words_still_tokenise(tokenizer, parts):
    assert tokenizer.convert_ids_to_tokens([parts.yes, parts.no, parts.end]) == ["Yes", "No", "<|im_end|>"]
    assert tokenizer.decode(tokenizer("Zürich’s okapi 猫").input_ids) == "Zürich’s okapi 猫"
    assert len(parts.instruction) >= 15


def test_the_processor_renders_the_prompt_that_training_used(tokenizer):
    processor = new_processor(tokenizer)
    text = f"{INSTRUCTION} {QUESTIONS[0].text}"
    content = [{"type": "image"}, {"type": "text", "text": text}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    image = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    inputs = processor(images=Image.fromarray(image), text=prompt, return_tensors="pt")
    assert inputs["input_ids"].tolist() == [tokenizer(HEAD + text + TAIL).input_ids]
    torch.testing.assert_close(inputs["pixel_values"], pixel_values(torch.from_numpy(image)[None]))
