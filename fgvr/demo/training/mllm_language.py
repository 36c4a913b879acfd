"""Second stage of the tiny MLLM: projector and language model learn to answer about images.

The vision tower is frozen and its features are computed once. One training sequence is a tree: an image, then branches
that do not see each other (the name; a dozen yes/no questions), written one after the other with a 4-D attention mask
and positions that restart at the fork, so that each branch reads as if it were alone after the image.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration

from fgvr.demo.questions import QUESTIONS
from fgvr.demo.species import OPTIONS
from fgvr.demo.training.annotator import annotated_name
from fgvr.demo.training.dialogue import Segments
from fgvr.demo.training.drawings import Drawings
from fgvr.demo.training.mllm_model import image_features, pixel_values
from fgvr.demo.training.schedule import Progress, adamw, take_step, warm_cosine

BATCH = 48
SHARED_QUESTIONS, WHOLE_QUESTIONS = 12, 5
"""Questions asked about one image in the shared layout and in the paper's order (longer, so fewer)."""
WHOLE_EVERY = 4
"""Every fourth batch uses the paper's order."""


@dataclass(frozen=True)
class Tree:
    """The shape of a training sequence, the same for all of a batch.

    Attributes:
        trunk: ids that all branches see after the image (empty in the paper's order).
        questions: for each question what its branch says, up to the answer.
        branches: number of question branches.
        width: tokens of a question branch, padded.
        positions: int64 [L].
        mask: float [1, 1, L, L], 0 where a token sees another, −inf elsewhere.
        label_start: where the label branch begins; the question branches follow it.
    """

    trunk: list[int]
    questions: list[list[int]]
    branches: int
    width: int
    positions: Tensor
    mask: Tensor
    label_start: int


def make_tree(parts: Segments, trunk: list[int], questions: list[list[int]], branches: int) -> Tree:
    """Lay out head, trunk, label branch (sees the head only) and question branches (see head and trunk)."""
    head, fork = len(parts.head), len(parts.head) + len(trunk)
    label, width = label_width(parts), max(map(len, questions)) + 1  # and the answer
    length = fork + label + branches * width
    owner = np.repeat(np.arange(branches + 2), [fork, label, *[width] * branches])
    seen = np.tril(np.ones((length, length), bool)) & ((owner[:, None] == owner[None]) | (owner[None] == 0))
    seen[fork : fork + label, head:fork] = False
    starts = [0, head, *[fork] * branches]
    lengths = [fork, label, *[width] * branches]
    positions = np.concatenate([np.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)])
    mask = torch.zeros(1, 1, length, length, dtype=torch.bfloat16)
    mask.masked_fill_(~torch.from_numpy(seen), float("-inf"))
    return Tree(trunk, questions, branches, width, torch.from_numpy(positions), mask, fork)


def label_width(parts: Segments) -> int:
    """Tokens of the label branch: the prompt and the longest name, whose end token is only a target."""
    return len(parts.label) + max(map(len, parts.names)) - 1


@dataclass(frozen=True)
class Batch:
    """Token ids int64 [B, L]; flat positions (into B·L) whose next token is learned, those tokens, and weights."""

    ids: Tensor
    where: Tensor
    target: Tensor
    weight: Tensor


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


def make_batch(
    tree: Tree,
    parts: Segments,
    truth: np.ndarray,
    names: np.ndarray,
    rng: np.random.Generator,
) -> Batch:
    """Fill a tree for B birds: ``truth`` bool [B, Q], ``names`` int [B] (−1: no name is learned)."""
    length = len(tree.positions)
    ids = np.full((len(truth), length), parts.end)
    where: list[int] = []
    target: list[int] = []
    weight: list[float] = []
    prefix = parts.head + tree.trunk
    for row in range(len(truth)):
        ids[row, : len(prefix)] = prefix
        base = row * length
        start = tree.label_start
        name = parts.names[names[row]] if names[row] >= 0 else []
        branch = parts.label + name[:-1]
        ids[row, start : start + len(branch)] = branch
        first = base + start + len(parts.label) - 1
        where += range(first, first + len(name))
        target += name
        weight += [1.0] * len(name)
        start += label_width(parts)
        for question in ask(truth[row], tree.branches, rng):
            answer = parts.yes if truth[row, question] else parts.no
            branch = [*tree.questions[question], answer]
            ids[row, start : start + len(branch)] = branch
            last = base + start + len(branch) - 1
            where += [last - 1, last]
            target += [answer, parts.end]
            weight += [1.0, 0.05]
            start += tree.width
    return Batch(torch.from_numpy(ids), torch.tensor(where), torch.tensor(target), torch.tensor(weight))


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
        make_tree(parts, parts.instruction, parts.shared, SHARED_QUESTIONS),
        make_tree(parts, [], parts.whole, WHOLE_QUESTIONS),
    )
    projector, language = model.model.multi_modal_projector, model.model.language_model
    optimiser = adamw((projector, language), 2e-3, decay=0.02)
    schedule = warm_cosine(optimiser, steps, 200)
    progress = Progress("mllm language", steps)
    order = np.empty(0, np.int64)
    for step in range(steps):
        if len(order) < BATCH:
            order = rng.permutation(len(drawings))
        rows, order = order[:BATCH], order[BATCH:]
        tree = layouts[step % WHOLE_EVERY == WHOLE_EVERY - 1]
        batch = make_batch(tree, parts, truth[rows], named[rows], rng)
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(model, tree, batch, features[rows])
        take_step(loss, optimiser, schedule)
        progress.update(step, loss.item())


def _loss(model: InternVLForConditionalGeneration, tree: Tree, batch: Batch, features: Tensor) -> Tensor:
    inner = model.model
    embeddings = inner.language_model.embed_tokens(batch.ids)
    images = inner.multi_modal_projector(features).to(embeddings.dtype)
    embeddings = embeddings.masked_scatter((batch.ids == model.config.image_token_id)[..., None], images)
    hidden = inner.language_model(
        inputs_embeds=embeddings,
        attention_mask=tree.mask.expand(len(embeddings), -1, -1, -1),
        position_ids=tree.positions[None].expand(len(embeddings), -1),
        use_cache=False,
    ).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1)[batch.where]).float()
    losses = nn.functional.cross_entropy(logits, batch.target, reduction="none")
    return (losses * batch.weight).sum() / batch.weight.sum()
