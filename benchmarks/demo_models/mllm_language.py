"""Second stage of the tiny MLLM: projector and language model learn to answer about images.

The vision tower is frozen and its features are computed once. One training example is a tree: an image, then branches
that do not see each other (the name; a dozen yes/no questions). The language model reads the trunk once and keeps its
keys and values, as an engine with a prefix cache does; every branch then continues from them, and gradients flow back
through them into the trunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, InternVLForConditionalGeneration, PreTrainedTokenizerFast

from benchmarks.demo_models.drawings import Drawings
from benchmarks.demo_models.mllm_model import IMAGE_TOKENS, image_features, pixel_values
from benchmarks.demo_models.schedule import Learner, batches
from benchmarks.demo_models.tokenizers import mllm_tokenizer
from fgvr.demo.questions import QUESTIONS
from fgvr.demo.scene import HABITATS
from fgvr.demo.species import OPTIONS, SPECIES

_MARKS: Final = 3  # species of a genus are ordered colour by colour, mark by mark


def annotated_name(species: int, habitat: int) -> int:
    """The class id that an unreliable annotator gives to a bird of class ``species`` seen in ``habitat``.

    The habitat counts as much as the bird, as real models name what is likely at a place. Every genus has two
    misleading habitats: in one of them the annotator confuses the marks (a Crested Azure Finch becomes a Masked one),
    in the other the colours (it becomes a Crested Crimson one). So a third of the names is wrong, always within the
    genus and always in the same way: a model that has learned them perfectly repeats them under greedy decoding.
    """
    genus, member = divmod(species, 2 * _MARKS)
    colour, mark = divmod(member, _MARKS)
    place = (habitat - genus) % len(HABITATS)
    if place == 0:
        mark = (mark + 1) % _MARKS
    elif place == 3:
        colour = 1 - colour
    return (genus * 2 + colour) * _MARKS + mark


def annotator_accuracy() -> float:
    """Share of (species, habitat) pairs that the annotator names correctly: two thirds."""
    pairs = [(s.class_id, h) for s in SPECIES for h in range(len(HABITATS))]
    return sum(annotated_name(s, h) == s for s, h in pairs) / len(pairs)


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


BATCH = 64
SHARED_QUESTIONS, WHOLE_QUESTIONS = 12, 5
"""Questions per image in the shared layout and in the paper's order (longer, so fewer)."""
WHOLE_EVERY = 4
"""Every fourth batch uses the paper's order."""
LABEL_WEIGHT = 0.5
"""Weight of the names' loss beside the questions' loss."""

Trunk = list[tuple[Tensor, Tensor]]
"""Keys and values [B, heads, length, width] of each layer for B trunks."""


@dataclass(frozen=True)
class Layout:
    """One order of a prompt's parts: what all questions of an image share, and what is a question's own.

    Attributes:
        trunk: ids between the image and the questions (empty in the paper's order).
        branches: for each question what follows the trunk, up to the answer.
        asked: number of questions asked about one image.
    """

    trunk: list[int]
    branches: list[list[int]]
    asked: int


@dataclass(frozen=True)
class Branches:
    """Continuations of trunks, padded on the right.

    Attributes:
        owner: int64 [M], the trunk (row of the batch) that each branch continues.
        ids: int64 [M, L].
        where: int64 [T], positions in the flattened ``ids`` whose next token is learned.
        target, weight: those tokens, int64 [T], and their weights in the loss, float [T].
    """

    owner: Tensor
    ids: Tensor
    where: Tensor
    target: Tensor
    weight: Tensor


def collect(rows: list[tuple[int, list[int], list[int], list[float]]], pad: int) -> Branches:
    """Branches of (owner, prompt ids, answer ids, weights of the answer's tokens)."""
    width = max(len(prompt) + len(answer) for _, prompt, answer, _ in rows)
    ids = np.full((len(rows), width), pad)
    where: list[int] = []
    for place, (_, prompt, answer, _) in enumerate(rows):
        ids[place, : len(prompt) + len(answer)] = prompt + answer
        first = place * width + len(prompt) - 1
        where += range(first, first + len(answer))
    return Branches(
        torch.tensor([owner for owner, *_ in rows]),
        torch.from_numpy(ids),
        torch.tensor(where),
        torch.tensor([token for *_, answer, _ in rows for token in answer]),
        torch.tensor([weight for *_, weights in rows for weight in weights]),
    )


def truth_table(looks: np.ndarray) -> np.ndarray:
    """True answers to all questions: bool [N, Q] from looks int [N, 22]."""
    names = list(OPTIONS)
    columns = [(names.index(q.attribute), OPTIONS[q.attribute].index(q.value)) for q in QUESTIONS]
    return np.stack([looks[:, attribute] == value for attribute, value in columns], axis=1)


def ask(truth: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Choose ``count`` different questions for one bird, as many with Yes as with No where there are enough."""
    yes, no = rng.permutation(np.flatnonzero(truth)), rng.permutation(np.flatnonzero(~truth))
    wanted = min(len(yes), count // 2)
    return np.concatenate([yes[:wanted], no[: count - wanted]])


def question_branches(layout: Layout, parts: Segments, truth: np.ndarray, rng: np.random.Generator) -> Branches:
    """Questions about each of B birds and their true answers: ``truth`` bool [B, Q]."""
    rows = []
    for owner, answers in enumerate(truth):
        for question in ask(answers, layout.asked, rng):
            answer = parts.yes if answers[question] else parts.no
            rows.append((owner, layout.branches[question], [answer, parts.end], [1.0, 0.05]))
    return collect(rows, parts.end)


def label_branches(parts: Segments, names: np.ndarray) -> Branches | None:
    """The label prompt and the name of each bird that has one (class id; −1: none). None if no bird has one."""
    rows = [
        (owner, parts.label, parts.names[name], [1.0] * len(parts.names[name]))
        for owner, name in enumerate(names)
        if name >= 0
    ]
    return collect(rows, parts.end) if rows else None


@torch.no_grad()
def cache_features(model: InternVLForConditionalGeneration, images: np.ndarray) -> Tensor:
    """Features of the frozen vision tower: bfloat16 [N, 16, 512]."""
    chunks = []
    for start in range(0, len(images), 256):
        with torch.autocast("cpu", torch.bfloat16):
            pixels = pixel_values(torch.from_numpy(images[start : start + 256]))
            chunks.append(image_features(model, pixels).bfloat16())
    return torch.cat(chunks)


def train_language(
    model: InternVLForConditionalGeneration, parts: Segments, drawings: Drawings, *, steps: int, seed: int
) -> None:
    """Train projector and language model in place."""
    rng = np.random.default_rng([seed, 2])
    features, truth = cache_features(model, drawings.images), truth_table(drawings.looks)
    named = np.array(
        [annotated_name(s, h) if s >= 0 else -1 for s, h in zip(drawings.species, drawings.habitat, strict=True)]
    )
    layouts = (
        Layout(parts.instruction, parts.shared, SHARED_QUESTIONS),
        Layout([], parts.whole, WHOLE_QUESTIONS),
    )
    projector, language = model.model.multi_modal_projector, model.model.language_model
    learner = Learner("mllm language", (projector, language), 2e-3, steps=steps, warm_up=200, decay=0.02)
    for step, rows in enumerate(batches(len(drawings), BATCH, steps, rng)):
        layout = layouts[step % WHOLE_EVERY == WHOLE_EVERY - 1]
        questions = question_branches(layout, parts, truth[rows], rng)
        names = label_branches(parts, named[rows])
        with torch.autocast("cpu", torch.bfloat16):
            trunk = read_trunk(model, parts.head + layout.trunk, features[rows])
            loss = branch_loss(model, trunk, questions)
            if names is not None:
                loss = loss + LABEL_WEIGHT * branch_loss(model, cut(trunk, len(parts.head)), names)
        learner.step(loss)


def read_trunk(model: InternVLForConditionalGeneration, ids: list[int], features: Tensor) -> Trunk:
    """Keys and values of the common beginning of B prompts: its ids, and image features [B, 16, 512]."""
    inner = model.model
    tokens = torch.tensor(ids).expand(len(features), -1)
    embeddings = inner.language_model.embed_tokens(tokens)
    images = inner.multi_modal_projector(features).to(embeddings.dtype)
    embeddings = embeddings.masked_scatter((tokens == model.config.image_token_id)[..., None], images)
    cache = inner.language_model(inputs_embeds=embeddings, use_cache=True).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


def cut(trunk: Trunk, length: int) -> Trunk:
    """The first ``length`` tokens of a trunk."""
    return [(keys[:, :, :length], values[:, :, :length]) for keys, values in trunk]


def branch_logits(model: InternVLForConditionalGeneration, trunk: Trunk, branches: Branches) -> Tensor:
    """Logits of the learned tokens, each branch continuing its own trunk: float [T, vocabulary]."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(trunk):
        cache.update(keys[branches.owner], values[branches.owner], layer)
    hidden = model.model.language_model(input_ids=branches.ids, past_key_values=cache).last_hidden_state
    logits: Tensor = model.lm_head(hidden.flatten(0, 1)[branches.where]).float()
    return logits


def branch_loss(model: InternVLForConditionalGeneration, trunk: Trunk, branches: Branches) -> Tensor:
    """Weighted mean cross-entropy of the learned tokens."""
    losses = nn.functional.cross_entropy(branch_logits(model, trunk, branches), branches.target, reduction="none")
    return (losses * branches.weight).sum() / branches.weight.sum()
