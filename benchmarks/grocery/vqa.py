"""The Grocery Store benchmark's second tiny MLLM, which also answers yes/no questions and FiNDR's prompt.

It takes over the vision tower of the naming model; projector and language model are trained from scratch, on the name
after either prompt and on the true answers of `questions.csv`. The naming model does not change, nor do all rows that
need only names.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from benchmarks.demo_models.mllm_language import (
    INSTRUCTION,
    LABEL_WEIGHT,
    TAIL,
    Layout,
    Segments,
    branch_loss,
    cut,
    label_branches,
    question_branches,
    read_trunk,
    segments,
    training_tokenizer,
)
from benchmarks.demo_models.mllm_model import new_mllm, new_processor, save_mllm
from benchmarks.demo_models.reference import ReferenceMllm
from benchmarks.demo_models.schedule import Learner
from benchmarks.grocery.mllm import LANGUAGE_BATCH, LANGUAGE_RATE, VIEWS, views_of
from benchmarks.grocery.photos import Photos, plain
from benchmarks.grocery.questions import SUBJECT, Questions
from fgvr.config.baselines import FINDR_PROMPT

EXPERT_PROMPT: Final = SUBJECT.fill(FINDR_PROMPT)
ASKED: Final = 8
"""Questions per photo and step."""


def train_vqa(photos: Photos, questions: Questions, naming: Path, folder: Path, *, steps: int, seed: int) -> None:
    """Train the language stage and write the checkpoint.

    Args:
        photos: the training photos.
        questions: the questions and their true answers.
        naming: the checkpoint of the naming model, whose vision tower is used.
        folder: folder of the new checkpoint.
        steps: number of training steps.
        seed: seed of weights, views and the choice of questions.
    """
    torch.manual_seed(seed)
    tokenizer = training_tokenizer(photos.names, (*questions.texts, EXPERT_PROMPT))
    model = new_mllm(tokenizer)
    seeing = InternVLForConditionalGeneration.from_pretrained(naming, dtype=torch.float32)
    model.model.vision_tower.load_state_dict(seeing.model.vision_tower.state_dict())
    train_language(model, tokenizer, photos, questions, steps=steps, seed=seed)
    save_mllm(model.eval(), new_processor(tokenizer), folder)


def train_language(
    model: InternVLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    photos: Photos,
    questions: Questions,
    *,
    steps: int,
    seed: int,
) -> None:
    """Train projector and language model in place."""
    rng = np.random.default_rng([seed, 3])
    parts = segments(tokenizer, photos.names, questions.texts)
    prompts = (parts, _asked_as_expert(parts, tokenizer))
    layout, truth = Layout(parts.instruction, parts.shared, ASKED), questions.about(photos.names)
    views = views_of(model, photos, rng)
    learner = Learner(
        "grocery vqa language",
        (model.model.multi_modal_projector, model.model.language_model),
        LANGUAGE_RATE,
        steps=steps,
        warm_up=steps // 8,
        decay=0.02,
    )
    for step in range(steps):
        rows = rng.choice(len(photos), min(LANGUAGE_BATCH, len(photos)), replace=False)
        classes = photos.classes[rows]
        asked = question_branches(layout, parts, truth[classes], rng)
        names = label_branches(prompts[step % 2], classes)
        assert names is not None  # every photo has a class  # noqa: S101
        with torch.autocast("cpu", torch.bfloat16):
            trunk = read_trunk(model, parts.head + layout.trunk, views[step % VIEWS][rows])
            loss = branch_loss(model, trunk, asked)
            loss = loss + LABEL_WEIGHT * branch_loss(model, cut(trunk, len(parts.head)), names)
        learner.step(loss)


def _asked_as_expert(parts: Segments, tokenizer: PreTrainedTokenizerFast) -> Segments:
    """The same segments with FiNDR's prompt before the name."""
    return replace(parts, label=list(tokenizer(EXPERT_PROMPT + TAIL, add_special_tokens=False).input_ids))


def answered_right(folder: Path, photos: Photos, questions: Questions) -> float:
    """Share of correct answers about photos, with each question asked by itself."""
    seen = (plain(torch.from_numpy(photos.images)).permute(0, 2, 3, 1) * 255).round().byte().numpy()
    p_yes, _ = ReferenceMllm(folder).p_yes(seen, [f"{INSTRUCTION} {text}" for text in questions.texts])
    return float(((p_yes > 0.5) == questions.about(photos.names)[photos.classes]).mean())
