"""The optimiser of a student, its layers' rates, and what of the student stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from fgvr.models.start_match import classifier_names

SCALE = "lr_scale"
"""Key of a parameter group's factor of the learning rate, as timm names it; the loop multiplies by it."""


class OptimiserRecipe(Protocol):
    """The part of `Makd` that describes its optimiser."""

    @property
    def optimizer(self) -> Literal["sgd", "adamw"]:
        """Which optimiser."""

    @property
    def lr(self) -> float:
        """Peak learning rate."""

    @property
    def layer_decay(self) -> float:
        """Factor between the rates of a layer and the one above it."""

    @property
    def momentum(self) -> float:
        """Momentum of SGD."""

    @property
    def weight_decay(self) -> float:
        """Weight decay."""


def optimiser_of(model: nn.Module, recipe: OptimiserRecipe) -> torch.optim.Optimizer:
    """The recipe's optimiser for all weights of a timm model.

    SGD decays every weight, as MaKD's code does. AdamW (Loshchilov and Hutter 2019) decays no biases, norms and
    position embeddings, as is usual for it (timm's `param_groups_weight_decay`). Layers are those that the model names
    to timm (`group_matcher`): layer l of L has `layer_decay` ^ (L − l) times the rate, the classifier the whole of it
    (BEiT, Bao et al. 2022; timm's `param_groups_layer_decay`).

    Args:
        model: nothing of it may be frozen yet: frozen weights would be left out for good.
        recipe: its settings.
    """
    decays_all = recipe.optimizer == "sgd"
    spared = () if decays_all else tuple(getattr(model, "no_weight_decay", tuple)())
    groups: Any = model.parameters()
    if recipe.layer_decay < 1:
        groups = param_groups_layer_decay(
            model,
            weight_decay=recipe.weight_decay,
            no_weight_decay_list=spared,
            weight_decay_exclude_1d=not decays_all,
            layer_decay=recipe.layer_decay,
        )
    elif not decays_all:
        groups = param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=spared)
    if decays_all:
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)


def freeze_backbone(model: nn.Module) -> list[nn.Parameter]:
    """Let only the classifier of a timm model learn; returns the weights that no longer do, to let them learn again.

    The caller sets the mode: a frozen backbone is in evaluation mode, so that the statistics of its batch normalisation
    stay as they are and nothing is dropped.
    """
    heads = classifier_names(model)
    held = [weight for name, weight in model.named_parameters() if name not in heads and weight.requires_grad]
    for weight in held:
        weight.requires_grad_(False)
    return held


def freeze_batch_statistics(model: nn.Module) -> None:
    """Let batch normalisation normalise by its running means and variances, and keep them; its weights still learn.

    Call it after every `model.train()`, which undoes it.
    """
    for module in _batch_norms(model):
        module.training = False  # not `eval()`: timm's layers have dropout inside that shall go on


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a network normalises by statistics of batches."""
    return next(_batch_norms(model), None) is not None


def _batch_norms(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
