"""A small discovery set to learn prompts on, for tests of NeaR's training."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional as F  # noqa: N812

from fgvr import storage, tables
from fgvr.candidates.sets import candidate_rows, neighbour_sets, single_sets
from fgvr.clip.model import load_clip
from fgvr.clip.prompt import PromptLearner, random_context
from fgvr.clip.prompt_layout import prompt_layout
from fgvr.clip.text_tower import TextTower
from fgvr.clip.vectors import embedding_rows
from fgvr.config import Clip, Near
from fgvr.neighbours import nearest
from fgvr.schemas import LABELS
from fgvr.tables import Table
from fgvr.training.prompt import train_near
from fgvr.training.prompt_data import NearJob
from fgvr.training.reporter import LocalReporter

FIRST_ID = 100


class Discovery:
    """Tables of a small discovery set: images lie where a hidden context puts their class, a third is named wrongly."""

    def __init__(self, folder: Path, clip_folder: Path, names: list[str], per_class: int = 12) -> None:
        random = np.random.default_rng(0)
        self.folder, self.clip, self.names = folder, Clip(model=str(clip_folder)), names
        self.truth = np.repeat(np.arange(len(names)), per_class)
        centres = self._text_features(random_context(self._tower, 4, seed=99) * 20)
        images = centres[self.truth] + 0.02 * random.standard_normal((len(self.truth), centres.shape[1]))
        self.features = (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32)
        wrong = random.random(len(self.truth)) < 0.33
        other = (self.truth + random.integers(1, len(names), len(self.truth))) % len(names)
        self.own = np.where(wrong, other, self.truth).astype(np.int32)
        found = nearest(self.features, self.features, 3, own=np.arange(len(self.truth)))
        self.sets = neighbour_sets(single_sets(self.own), found.ids, found.scores)
        self.ids = np.arange(len(self.truth)) + FIRST_ID
        self._write(candidate_rows(self.ids, self.ids[found.ids], found.scores, self.sets))

    def _text_features(self, context: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return PromptLearner(self._tower, self._layout(len(context)), context)().numpy()

    @property
    def _tower(self) -> TextTower:
        return TextTower.of(load_clip(self.clip).network)

    def _layout(self, context_tokens: int):
        return prompt_layout(load_clip(self.clip).tokenizer, self._tower, self.names, context_tokens)

    def _write(self, candidates: pa.Table) -> None:
        rows = [{"image_id": int(i), "label_id": int(label)} for i, label in zip(self.ids, self.own, strict=True)]
        self.table("labels", pa.Table.from_pylist(rows, schema=LABELS))
        space = {"labels": self.names, "counts": np.bincount(self.own, minlength=len(self.names)).tolist()}
        storage.write_bytes(str(self.folder / "labels" / "label_space.json"), json.dumps(space).encode())
        self.table("embeddings", embedding_rows(self.ids, self.features, [None] * len(self.ids)))
        self.table("candidates", candidates)

    def table(self, name: str, rows: pa.Table) -> None:
        half = max(1, len(rows) // 2)
        parts = [rows.slice(start, half) for start in range(0, len(rows), half)]
        for number, part in enumerate(parts):
            tables.write_part(str(self.folder / name), number, part)
        Table(str(self.folder / name), name, "x", len(rows), 0, len(parts), half, 0.0).commit()

    def job(self, views: str | None = None, **settings) -> NearJob:
        values = {"context_length": 4, "epochs": 10, "batch_size": 16, "lr": 0.01, "warmup_epochs": 0} | settings
        uris = {name: str(self.folder / name) for name in ("labels", "embeddings", "candidates")}
        return NearJob(settings=Near(**values), clip=self.clip, views=views, **uris)


def run(job, folder):
    reporter = LocalReporter(folder)
    train_near(job, reporter)
    return reporter


def state(reporter):
    return torch.load(reporter.checkpoint / "state.pt", weights_only=True)


class Proden:
    """What the method written out does with the weights: PRODEN; others override it."""

    def start(self, weights):
        """The weights [N, C] before the first epoch, from the uniform ones."""
        return weights

    def after(self, epoch, before, again):
        """The weights after a full-batch epoch, from the logits before its step; `again` gives those after it."""
        p = before.softmax(dim=1) * self.mask
        return p / p.sum(dim=1, keepdim=True)

    def before_step(self, images, names, scale):
        """Called with the features before each step."""


def naive_training(discovery, settings, rule=None):
    """The method as the papers write it, full batch: all names at once, weights updated from the pre-step logits."""
    rule = Proden() if rule is None else rule
    clip = load_clip(discovery.clip)
    tower = TextTower.of(clip.network)
    layout = prompt_layout(clip.tokenizer, tower, discovery.names, settings.context_length)
    context = random_context(tower, settings.context_length, settings.seed).requires_grad_()
    optimiser = torch.optim.SGD([context], settings.lr, settings.momentum, weight_decay=settings.weight_decay)
    images = torch.from_numpy(discovery.features).half().float()
    rule.mask = torch.zeros(len(images), len(discovery.names), dtype=torch.bool)
    for row, labels in enumerate(discovery.sets.label_ids):
        rule.mask[row, labels[labels >= 0]] = True

    def features():
        tokens = tower.token_embedding(layout.ids.clamp(min=0))
        tokens = torch.cat([tokens[:, :1], context.expand(len(tokens), -1, -1), tokens[:, 5:]], dim=1)
        text, length = clip.network.text, tokens.shape[1]
        x = text.transformer(tokens + text.positional_embedding[:length], attn_mask=text.attn_mask[:length, :length])
        return F.normalize(text.ln_final(x)[torch.arange(len(x)), layout.end] @ text.text_projection, dim=-1)

    def again():
        with torch.no_grad():
            return clip.logit_scale * images @ features().T

    weights = rule.start(rule.mask / rule.mask.sum(dim=1, keepdim=True))
    losses = []
    for epoch in range(settings.epochs):
        optimiser.param_groups[0]["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
        names = features()
        logits = clip.logit_scale * images @ names.T
        rule.before_step(images, names.detach(), clip.logit_scale)
        loss = -(weights * logits.log_softmax(dim=1)).sum(dim=1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        weights = rule.after(epoch, logits.detach(), again)
        losses.append(loss.item())
    return context.detach(), losses
