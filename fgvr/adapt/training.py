"""GRPO with LoRA on an image-text model (Shao et al. 2024), with TRL's trainer and transformers' generation.

Only the language model's attention is adapted: vLLM serves such an adapter for every model family.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fgvr import liveness
from fgvr.adapt.rewards import rewards
from fgvr.adapt.schedule import Stages, coefficient
from fgvr.config.near import LABEL_PROMPT
from fgvr.metrics.bootstrap import interval
from fgvr.mllm.adapter_folder import AdapterError, Verdict, write_record
from fgvr.names.aliases import AliasTable

if TYPE_CHECKING:
    from PIL.Image import Image

STATE = "trainer_state.json"
"""The last file of a checkpoint that is written."""
Told = Callable[[Mapping[str, float]], None]
TARGETS = r".*language_model.*\.(q|k|v|o)_proj"
"""Layers that get an adapter."""


@dataclass(frozen=True)
class Recipe:
    """How the model is adapted.

    Attributes:
        steps: optimiser steps, T.
        answers: sampled answers per photo, the group whose rewards are compared.
        photos: photos per step.
        max_tokens: longest answer; a longer one is cut and does not count in the loss.
        beta: β, weight of the entropy term; positive.
        stages: when it changes its sign.
        lr: peak learning rate of AdamW.
        rank: of the LoRA matrices.
        temperature: of the sampled answers.
        save_steps: steps between checkpoints.
        seed: of order, answers and LoRA's weights.
        gpu: whether a GPU computes.
        prompt: what the model is asked about each photo.
    """

    steps: int = 60
    answers: int = 8
    photos: int = 4
    max_tokens: int = 32
    beta: float = 0.01
    stages: Stages = "two_stage"
    lr: float = 1e-4
    rank: int = 8
    temperature: float = 1.0
    save_steps: int = 20
    seed: int = 0
    gpu: bool = False
    prompt: str = LABEL_PROMPT


@dataclass(frozen=True)
class Photos:
    """Photos with trusted names; `images` are RGB."""

    images: Sequence[Image]
    names: Sequence[str]


@dataclass(frozen=True)
class Step:
    """One optimiser step: means over its answers. `same` is the share of photos whose answers all got one reward."""

    step: int
    reward: float
    entropy: float
    coefficient: float
    length: float
    same: float
    loss: float


def check_installed() -> None:
    """Raise AdapterError where the extra is missing."""
    missing = [name for name in ("trl", "peft", "accelerate", "datasets") if importlib.util.find_spec(name) is None]
    if missing:
        raise AdapterError(f"adapt: {', '.join(missing)} not installed here; pip install 'fgvr[adapt]'")


def load(folder: str | Path) -> tuple[Any, Any]:
    """Model (float32) and processor, which cuts no photo into tiles; no code of the folder is run."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    processor = AutoProcessor.from_pretrained(folder)
    if hasattr(processor.image_processor, "crop_to_patches"):
        processor.image_processor.crop_to_patches = False
    return model, processor


def adapt(
    model: Any,
    processor: Any,
    learned: Photos,
    recipe: Recipe,
    folder: Path,
    *,
    aliases: AliasTable | None = None,
    told: Told | None = None,
    kept: Callable[[Path], None] | None = None,
) -> tuple[Any, list[Step]]:
    """Train an adapter, or go on from the last checkpoint in the folder; returns the adapted model and every step.

    Args:
        model: of `load`.
        processor: of `load`.
        learned: trusted photos.
        recipe: how.
        folder: for checkpoints.
        aliases: of the label space.
        told: called after every step with its epoch, loss and mean reward.
        kept: called with every checkpoint's folder when it is whole.

    Raises:
        AdapterError: no or one name, a missing extra, or a loss that is no number.
    """
    check_installed()
    if not learned.names:
        raise AdapterError("adapt: no photo has a trusted name; check some labels (label.checked), or ask more samples")
    if len(set(learned.names)) < 2:
        raise AdapterError(
            f"adapt: all {len(learned.names):,} trusted photos are called {learned.names[0]!r}: a model that always "
            "says so would get every reward; trust photos of at least two names"
        )
    if recipe.beta <= 0:
        raise AdapterError(f"adapt.beta = {recipe.beta:g}: must be above 0, since the sign decides when it explores")
    trainer = _trainer(model, processor, learned, recipe, folder, aliases=aliases or AliasTable())
    trainer.add_callback(_tell(told, kept))
    last = last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    return trainer.model, [_step(row) for row in trainer.state.log_history if "entropy_coef" in row]


def last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end; None where there is none.

    The trainer's state is what is written last: a worker that was killed before it leaves a checkpoint without one, or
    half of one.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda place: int(place.name.rpartition("-")[2]), reverse=True)
    return next((place for place in found if _is_whole(place)), None)


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


def _trainer(model: Any, processor: Any, learned: Photos, recipe: Recipe, folder: Path, *, aliases: AliasTable) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    def reward(completions: Any, name: list[str], **_: Any) -> list[float]:
        return rewards([completion[0]["content"] for completion in completions], name, aliases)

    config = GRPOConfig(
        output_dir=str(folder),
        use_cpu=not recipe.gpu,
        bf16=False,
        use_vllm=False,
        beta=0.0,
        entropy_coef=coefficient(0, recipe.steps, recipe.beta, recipe.stages),
        num_generations=recipe.answers,
        per_device_train_batch_size=recipe.answers * recipe.photos,
        max_completion_length=recipe.max_tokens,
        mask_truncated_completions=True,
        temperature=recipe.temperature,
        max_steps=recipe.steps,
        learning_rate=recipe.lr,
        gradient_checkpointing=False,
        report_to=[],
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would replace a loss that is no number by an older one
        disable_tqdm=True,
        save_steps=recipe.save_steps,
        save_total_limit=2,
        seed=recipe.seed,
    )
    rows = {
        "prompt": [[{"role": "user", "content": recipe.prompt}]] * len(learned.names),
        "image": list(learned.images),
        "name": list(learned.names),
    }
    lora = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_dict(rows),
        processing_class=processor,
        peft_config=lora,
    )
    trainer.add_callback(_follow(trainer, recipe))
    return trainer


def _follow(trainer: Any, recipe: Recipe) -> Any:
    """The callback that sets the coefficient before every step, and ends a training whose loss is no number."""
    from transformers import TrainerCallback

    class Follow(TrainerCallback):  # type: ignore[misc]  # transformers has no types
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # From the step and not counted here: after a resume it is the same.
            trainer.entropy_coef = coefficient(state.global_step, recipe.steps, recipe.beta, recipe.stages)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            # A norm that is no number has already spoiled the weights, before any checkpoint of this step.
            bad = [name for name in ("loss", "grad_norm") if not math.isfinite(float((logs or {}).get(name, 0)))]
            if bad:
                raise AdapterError(
                    f"adapt: the {bad[0]} of step {state.global_step} is not a number; lower adapt.lr or adapt.beta"
                )

    return Follow()


def _tell(told: Told | None, kept: Callable[[Path], None] | None) -> Any:
    """The callback that reports steps and checkpoints."""
    from transformers import TrainerCallback

    class Tell(TrainerCallback):  # type: ignore[misc]  # transformers has no types
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            liveness.beat()
            if told is not None and "reward" in (logs or {}):
                told({"epoch": float(logs["epoch"]), "loss": float(logs["loss"]), "reward": float(logs["reward"])})

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if kept is not None:
                kept(Path(args.output_dir, f"checkpoint-{state.global_step}"))

    return Tell()


def _step(row: dict[str, Any]) -> Step:
    return Step(
        step=int(row["step"]),
        reward=float(row["reward"]),
        entropy=float(row["entropy"]),
        coefficient=float(row["entropy_coef"]),
        length=float(row["completions/mean_length"]),
        same=float(row["frac_reward_zero_std"]),
        loss=float(row["loss"]),
    )


def answers_of(
    model: Any,
    processor: Any,
    images: Sequence[Image],
    *,
    max_tokens: int,
    samples: int = 0,
    batch: int = 32,
    prompt: str = LABEL_PROMPT,
) -> list[list[str]]:
    """The greedy answer about each image, or `samples` sampled ones at temperature 1."""
    import torch

    said: list[list[str]] = []
    each = max(1, samples)
    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    text = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    processor.tokenizer.padding_side = "left"
    model.eval()
    for start in range(0, len(images), batch):
        part = list(images[start : start + batch])
        inputs = processor(images=[[image] for image in part], text=[text] * len(part), return_tensors="pt")
        inputs = inputs.to(model.device)
        how = {"do_sample": True, "temperature": 1.0, "top_k": 0} if samples else {"do_sample": False}
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=max_tokens, num_return_sequences=each, **how)
        texts = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        said += [texts[place : place + each] for place in range(0, len(texts), each)]
        liveness.beat()
    return said


def right(model: Any, processor: Any, photos: Photos, max_tokens: int, aliases: AliasTable | None = None) -> Any:
    """Which photos the greedy answer names rightly: float64 [N], 0 or 1."""
    said = [answers[0] for answers in answers_of(model, processor, photos.images, max_tokens=max_tokens)]
    return np.array(rewards(said, photos.names, aliases))


def judged(before: Any, after: Any, seed: int = 0, *, confidence: float = 0.95, min_gain: float = 0.0) -> Verdict:
    """Compare the right answers (float64 [N], 0 or 1) before and after, photo by photo; see `Verdict`."""
    low, high = interval(after - before, seed=seed) or (math.nan, math.nan)
    gained, lost = int((after > before).sum()), int((after < before).sum())
    return Verdict(
        len(before), float(before.mean()), float(after.mean()), low, high, gained, lost, confidence, min_gain
    )


def save(model: Any, folder: Path, base: str | Path, verdict: Verdict) -> None:
    """Write the adapter of a trained model into its folder."""
    model.save_pretrained(folder, safe_serialization=True)
    write_record(folder, base, verdict)
