"""For each stage: what must change its fingerprint, and what must not.

Every field of the config stands in one of the two tables below, or a test fails: whoever adds a field decides.
Fingerprints are taken without those of the input tables, so a row names the stages that a field concerns by itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from fgvr.config import Config, build
from fgvr.demo.paths import CLIP_PATH, MLLM_PATH
from fgvr.sources.source import listing_state
from pipelines import ingest
from tests.pipelines.stage_prints import asking, made_light, prints_of

ASKED = {"answers", "aspects", "class_scores", "finer_aspects", "findr_answers", "findr_meta", "eval_mllm_answers"}
"""Stages in which the MLLM sees images."""
VIEWED = {"embeddings", "views", "prototype_views"}
CLIPPED = {*VIEWED, "near", "captions", "wordnet", "eval_zs_clip"}
STUDENTS = {"base", "makd"}
PREDICTED = {"predictions", "eval_base", "eval_makd"}
NAMED = {"labels", "finer_labels", "findr_labels"}
OF_CLIP_CLASSES = {f"eval_{name}" for name in ("zs_clip", "zs_wordnet", "prototypes", "finer", "findr", "near")}
EVALUATED = {*PREDICTED, *OF_CLIP_CLASSES, "eval_cased", "report"} - {"predictions"}

WHOLE = ("samples", "labels", "near", "questions", "aspects", "class_scores", "base", "makd", "predictions", "report")
LABELS, NEAR, STUDENT = ("labels",), ("near",), ("base", "makd")
SERVER = {"kind": "openai", "model": "big", "base_url": "http://user:pw@gpu:8000/v1"}
METHODS = ["mllm", "zs_clip", "zs_wordnet", "cased", "prototypes", "finer", "findr", "near", "base", "makd"]

NOT_TAUGHT = {"distillation": {"kind": "none"}}
PIPELINE = {
    "model_index.json": '{"unet": ["diffusers", "UNet2DConditionModel"]}',
    "controlnet/config.json": '{"_class_name": "ControlNetModel"}',
    **{f"{part}/w.safetensors": "some" for part in ("unet", "vae", "text_encoder", "controlnet")},
    **{f"{part}/some.json": "{}" for part in ("tokenizer", "scheduler")},
}
"""The files of a diffusion pipeline, as far as they are looked at before it is loaded."""

Row = tuple[str, Any, set[str]]

# Field, another value, the stages whose fingerprints it changes: in the setup of that name, asked for these tables.
DECIDES: dict[tuple[str, tuple[str, ...]], list[Row]] = {
    ("all", WHOLE): [
        ("ingest.limits.cut_bottom", 3, {*ASKED, *VIEWED, *STUDENTS, *PREDICTED}),
        ("mllm.dtype", "float32", ASKED),
        ("mllm.max_model_len", 512, ASKED),
        ("mllm.seed", 3, ASKED),
        ("mllm.engine_args", {"quantization": "fp8"}, ASKED),
        ("mllm.engine_args", {"of_a_later_version": 1}, ASKED),
        ("mllm.model", "{copy of mllm}", ASKED),
        ("clip.model", "{copy of clip}", CLIPPED),
        ("clip.template", "a bird, {}", {"wordnet", "eval_zs_clip"}),
        # Without images of its own the methods are compared on the discovery images, which have been named.
        ("evaluate.split", "other", {*EVALUATED, "eval_mllm_answers", "eval_mllm"}),
        ("evaluate.max_images", 1, {*EVALUATED, "eval_mllm_answers"}),
        ("evaluate.methods", ["mllm", *METHODS[2:]], {"report", "eval_zs_clip"}),
        ("evaluate.sentence_model", "{sentences}", {"report"}),
        ("evaluate.prices", "{prices}", {"report"}),
        ("evaluate.hyphen_to_space", True, {"report"}),
        ("evaluate.bootstrap", 10, {"report"}),
        # The images that it shows are predicted, too.
        ("evaluate.report_images", 3, EVALUATED),
        ("evaluate.leaks", "report", {"photo_checks", "findings", "report"}),
        ("evaluate.report_issues", 3, {"space", "issues", "report"}),
        ("evaluate.seed", 3, {"report"}),
        ("evaluate.slice_by", ["class_name"], {"report"}),
        ("infer.abstain_below", 0.5, {*PREDICTED, *OF_CLIP_CLASSES}),
        ("infer.costs", "{costs}", {*PREDICTED, *OF_CLIP_CLASSES, "report"}),
        ("infer.trained", "near", {"predictions"}),
        ("infer.workers.num_gpus", 1, PREDICTED),
        ("baselines.wordnet.path", "{nouns}", {"wordnet"}),
        ("baselines.cased.captions", "{captions}", {"captions"}),
        ("baselines.cased.retrieved", 3, {"eval_cased"}),
        ("baselines.cased.image_weight", 0.1, {"eval_cased"}),
        ("baselines.prototypes.text_weight", 0.1, {"eval_prototypes", "eval_finer", "eval_findr"}),
        ("baselines.prototypes.views", 3, {"prototype_views"}),
        ("baselines.prototypes.min_crop", 0.1, {"prototype_views"}),
        ("baselines.prototypes.template", "a {}", {"eval_prototypes", "eval_finer", "eval_findr"}),
        ("baselines.prototypes.seed", 3, {"prototype_views"}),
        ("baselines.finer.llm", {"kind": "simulated"}, {"finer_answers"}),
        ("baselines.finer.names", 5, {"finer_answers", "finer_labels"}),
        ("baselines.finer.max_tokens", 5, {"finer_answers"}),
        ("baselines.finer.temperature", 0.1, {"finer_answers"}),
        ("baselines.finer.seed", 5, {"finer_answers"}),
        ("baselines.findr.category", "bird", set()),  # the answer to the question for the others is known
        ("baselines.findr.unit", "breed", {"findr_answers"}),
        ("baselines.findr.expert", "vet", {"findr_answers"}),
        ("baselines.findr.images", 5, {"findr_meta"}),
        ("baselines.findr.prompt", "What {unit}?", {"findr_answers"}),
        ("run.name", "other", {"report"}),  # it says the name
        ("questions.subject", "birds", {"finer_answers"}),
    ],
    ("all", LABELS): [
        ("label.images.split", "test", {"answers"}),
        ("label.images.legacy_discovery_split", True, {"answers"}),
        ("label.images.per_class", 1, {"answers"}),
        ("label.images.max_images", 2, {"answers"}),
        ("label.images.only", "{listed}", {"answers"}),
        ("label.images.select", "medoids", {"embeddings", "space", "selected", "answers"}),
        ("label.prompt", "What is it?", {"answers"}),
        ("label.listed", 2, {"answers", "labels"}),
        ("label.answer", "structured", {"answers", "labels"}),
        ("label.max_tokens", 7, {"answers"}),
        ("label.temperature", 0.5, {"answers"}),
        ("label.aliases", "{aliases}", {"labels"}),
        ("label.checked", "{checked}", {"labels"}),
        ("label.reask", 0.1, set()),  # it adds tables: reasked, and what that reads
        ("label.merge_similarity", 0.9, {"labels"}),
        ("label.seed", 3, {"answers"}),
    ],
    ("sampled", LABELS): [
        ("label.samples", 3, {"answers"}),
        ("label.images.seed", 3, {"answers"}),
        ("label.listed_prompt", "Name {k}.", {"answers"}),
        ("label.merge_model", "{sentences}", {"labels"}),
    ],
    ("all", NEAR): [
        ("embed.splits", ["train"], {"embeddings"}),
        ("embed.workers.num_gpus", 1, {"embeddings", "views"}),  # bf16 there, float32 on CPUs
        ("candidates.k", 5, {"candidates"}),
        ("candidates.method", "random", {"candidates"}),
        ("candidates.guard", True, {"candidates"}),
        ("candidates.weights", "similarity", {"candidates"}),
        ("candidates.seed", 5, {"candidates"}),
        ("near.loss", "rc", {"near"}),
        ("near.context_length", 3, {"near"}),
        ("near.context_init", "a photo of", {"near"}),
        ("near.class_specific", True, {"near"}),
        ("near.name_position", "front", {"near"}),
        ("near.epochs", 3, {"near"}),
        ("near.batch_size", 3, {"near"}),
        ("near.lr", 0.1, {"near"}),
        ("near.momentum", 0.1, {"near"}),
        ("near.weight_decay", 0.1, {"near"}),
        ("near.warmup_epochs", 3, {"near"}),
        ("near.frozen_epochs", 3, {"near"}),
        ("near.views", 4, {"near", "views"}),
        ("near.validation_share", 0.3, {"near"}),
        ("near.gce_q", 0.3, {"near"}),
        ("near.lws_beta", 2, {"near"}),
        ("near.own_weight", 0.3, {"near"}),
        ("near.seed", 3, {"near", "views"}),
        ("near.workers.use_gpu", True, {"near"}),
    ],
    ("all", ("label_prototypes", "heads", "propagated")): [
        ("heads.network", "linear", {"heads"}),
        ("heads.loss", "ce", {"heads"}),
        ("heads.start", "text", {"heads"}),
        ("heads.whiten", False, {"label_prototypes", "heads", "space"}),  # the last is not needed then
        ("heads.steps", 5, {"heads"}),
        ("heads.lr", 0.5, {"heads"}),
        ("heads.weight_decay", 0.5, {"heads"}),
        ("heads.gce_q", 0.3, {"heads"}),
        ("heads.members", 2, {"heads"}),
        ("heads.seed", 3, {"label_prototypes", "heads"}),
        ("infer.abstain_below", 0.5, {"propagated"}),
        ("infer.costs", "{costs}", {"propagated"}),
    ],
    ("tree", WHOLE): [
        ("hierarchy.path", "{other kinds}", {*PREDICTED, *OF_CLIP_CLASSES, "report"}),
        ("hierarchy.levels", ["name", "family"], {*PREDICTED, *OF_CLIP_CLASSES, "report"}),
        ("hierarchy.decide", "any_level", {*PREDICTED, *OF_CLIP_CLASSES, "report"}),
        ("hierarchy.cost", "height", {*PREDICTED, *OF_CLIP_CLASSES, "report"}),
        ("hierarchy.specific_above", 0.7, {*PREDICTED, *OF_CLIP_CLASSES, "report"}),
    ],
    ("asked", ("parents", "predictions", "eval_near", "report")): [
        ("hierarchy.llm", SERVER, {"kind_answers"}),
        ("hierarchy.prompt", "What is a {name}?", {"kind_answers"}),
        ("hierarchy.rounds", 1, {"kind_answers"}),
        ("hierarchy.max_tokens", 9, {"kind_answers"}),
        ("hierarchy.decide", "any_level", {*PREDICTED, *OF_CLIP_CLASSES, "report"}),
    ],
    ("mlp", ("heads",)): [
        ("heads.hidden", 7, {"heads"}),
    ],
    ("all", ("aspects", "class_scores")): [
        ("questions.file", "{questions}", {"questions"}),
        ("questions.keep", 1, {"questions"}),
        ("aspects.split", "test", {"aspects"}),
        ("aspects.max_images", 2, {"aspects", "class_scores"}),
        ("aspects.instruction", "Say Yes or No.", {"aspects"}),
        ("aspects.order", "paper", {"aspects"}),
        ("aspects.words", ["yes", "no"], {"aspects"}),
        ("aspects.min_label_mass", 0.1, {"aspects"}),
        ("class_scores.prompt", "What?", {"class_scores"}),
    ],
    ("all", ("findings", "photo_checks")): [
        ("check.blurred", 3, {"findings"}),
        ("check.dark", 3, {"findings"}),
        ("check.light", 250, {"findings"}),
        ("check.low_contrast", 3, {"findings"}),
        ("check.tiny", 3, {"findings"}),
        ("check.odd_aspect", 2, {"findings"}),
        ("check.near", 2, {"findings"}),
        ("check.few", 2, {"findings"}),
        ("ingest.limits.cut_bottom", 20, {"photo_checks"}),
    ],
    ("all", ("signatures",)): [
        ("signatures.file", "{choices}", {"signatures"}),
        ("signatures.llm", SERVER, {"signatures"}),
        ("signatures.prompt", "{question} {name}\n{options}", {"signatures"}),
        ("signatures.rotations", 1, {"signatures"}),
        ("signatures.min_label_mass", 0.1, {"signatures"}),
        ("mllm.dtype", "float32", {"signatures"}),
        ("mllm.model", "{copy of mllm}", {"signatures"}),
    ],
    ("drawn", ("base", "synthetic")): [
        ("augment.alpha", 0.5, {"base"}),
        ("augment.alpha", 0, {"base"}),  # which then sees no pictures
        ("augment.max_per_source", 1, {"base"}),
        ("augment.below", 1, {"synthetic"}),  # of none
        ("augment.per_image", 3, {"synthetic"}),
        ("augment.prompts", ["a {}"], {"synthetic"}),
        ("augment.basic_prompt", "a photo of a bird", {"synthetic"}),
        ("augment.negatives", ["a photo"], {"synthetic"}),
        ("augment.top_k", 3, {"synthetic"}),
        ("augment.ranked_by", "zero_shot", {"embeddings", "space", "synthetic"}),  # the first two are not needed then
        ("augment.seed", 3, {"synthetic"}),
        ("augment.generator.species", "other", {"synthetic"}),
        ("augment.generator.difficulty", 1, {"synthetic"}),
        ("augment.workers.num_gpus", 1, {"synthetic"}),  # bf16 there
        ("clip.model", "{copy of clip}", {"embeddings", "synthetic"}),
        ("ingest.limits.cut_bottom", 3, {"embeddings", "synthetic", "base"}),
    ],
    ("diffused", ("synthetic",)): [
        ("augment.generator.model", "{other pipeline}", {"synthetic"}),
        ("augment.generator.controlnet", "{other pipeline}/controlnet", {"synthetic"}),
        ("augment.generator.steps", 3, {"synthetic"}),
        ("augment.generator.guidance", 3, {"synthetic"}),
        ("augment.generator.controlnet_scale", 0.5, {"synthetic"}),
        ("augment.generator.negative_prompt", "blurry", {"synthetic"}),
        ("augment.generator.size", 64, {"synthetic"}),
    ],
    ("written", ("questions", "aspects")): [
        ("questions.llm.base_url", "http://other/v1", {"questions"}),
        ("questions.llm.model", "small", {"questions"}),
        ("questions.generate", 7, {"questions"}),
        ("questions.duplicate_similarity", 0.5, {"questions"}),
        ("questions.duplicate_model", "{sentences}", {"questions"}),
        ("aspects.seed", 3, {"aspects"}),
    ],
    ("server", LABELS): [
        ("mllm.base_url", "http://elsewhere:8000/v1", {"answers"}),
        ("mllm.base_url", "http://gpu:8000/v2", {"answers"}),
        ("mllm.model", "small", {"answers"}),
        ("mllm.image_detail", "low", {"answers"}),
        ("mllm.max_image_side", 64, {"answers"}),
        ("mllm.answer_logprobs", True, {"answers"}),
        ("mllm.top_logprobs", 5, {"answers"}),
    ],
    ("simulated", ("labels", "embeddings")): [
        ("mllm.names", 7, {"answers"}),
        ("mllm.accuracy", 0.5, {"answers"}),
        ("mllm.rare_names", 0.5, {"answers"}),
        ("mllm.failures", {"refused": 0.1}, {"answers"}),
        ("mllm.seed", 7, {"answers"}),
        ("embed.vectors.dim", 8, {"embeddings"}),
        ("embed.vectors.names", 8, {"embeddings"}),
        ("embed.vectors.spread", 0.1, {"embeddings"}),
        ("embed.vectors.seed", 8, {"embeddings"}),
    ],
    ("all", STUDENT): [
        ("makd.backbone", "resnet34", STUDENTS),
        ("makd.image_size", 64, STUDENTS),
        ("makd.resize", 256, STUDENTS),
        ("makd.backbone_args", {"drop_rate": 0.1}, STUDENTS),
        ("makd.fraction", 0.5, STUDENTS),
        ("makd.alpha", 5, {"makd"}),
        ("makd.questions", 5, {"makd"}),
        ("makd.aspect_loss", "kl", {"makd"}),
        ("makd.unasked_aspects", "class_mean", {"makd"}),
        ("makd.signature_weight", 1, {"makd", "signatures"}),  # which are asked then
        ("makd.aspect_targets", "random", {"makd", "aspects"}),  # the MLLM is not asked then
        ("makd.epochs", 3, STUDENTS),
        ("makd.max_steps", 3, STUDENTS),
        ("makd.batch_size", 3, STUDENTS),
        ("makd.lr", 0.05, STUDENTS),
        ("makd.momentum", 0.1, STUDENTS),
        ("makd.weight_decay", 0.1, STUDENTS),
        ("makd.schedule", "cosine", STUDENTS),
        ("makd.milestones", [3], STUDENTS),
        ("makd.warmup_epochs", 3, STUDENTS),
        ("makd.min_crop", 0.5, STUDENTS),
        ("makd.validation_share", 0.2, STUDENTS),
        ("makd.precision", "bf16", STUDENTS),
        ("makd.seed", 3, STUDENTS),
        ("makd.workers.use_gpu", True, STUDENTS),  # `auto` is bf16 there
        ("makd.distillation.temperature", 3, STUDENTS),
        ("makd.distillation.standardise", True, STUDENTS),
        ("makd.distillation.class_weight", 0.5, STUDENTS),
        ("makd.distillation.weight", 0.5, STUDENTS),
        ("makd.distillation.warmup_epochs", 3, STUDENTS),
    ],
    ("dkd", STUDENT): [
        ("makd.distillation.temperature", 3, STUDENTS),
        ("makd.distillation.standardise", True, STUDENTS),
        ("makd.distillation.class_weight", 0.5, STUDENTS),
        ("makd.distillation.weight", 0.5, STUDENTS),
        ("makd.distillation.warmup_epochs", 3, STUDENTS),
        ("makd.distillation.alpha", 3, STUDENTS),
        ("makd.distillation.beta", 3, STUDENTS),
    ],
    ("started", STUDENT): [
        ("makd.weights", "{other weights}", STUDENTS),
        ("makd.weights", "{weights elsewhere}", set()),  # the same bytes
        ("makd.optimizer", "sgd", STUDENTS),
        ("makd.layer_decay", 0.5, STUDENTS),
        ("makd.freeze_epochs", 3, STUDENTS),
        ("makd.batch_norm", "frozen", STUDENTS),
        ("makd.ema", 1000, STUDENTS),
        ("makd.label_smoothing", 0.1, STUDENTS),
        ("makd.mixup", 0.2, STUDENTS),
        ("makd.cutmix", 1, STUDENTS),
        ("makd.randaugment", 3, STUDENTS),
        ("makd.randaugment_magnitude", 5, STUDENTS),
        ("makd.momentum", 0.1, set()),  # AdamW has none
        ("makd.weight_decay", 0.1, STUDENTS),
    ],
    ("semi", STUDENT): [
        ("makd.trainer", "plain", STUDENTS),
        ("makd.semi.threshold", 0.8, STUDENTS),
        ("makd.semi.per_class", True, STUDENTS),
        ("makd.semi.weight", 2, STUDENTS),
        ("makd.semi.ratio", 2, STUDENTS),
        ("makd.semi.mixup", False, STUDENTS),
        ("makd.randaugment_magnitude", 5, STUDENTS),  # of the strong views
    ],
    ("beside", ("base", "makd", "heads")): [
        ("makd.metadata.columns", {}, STUDENTS),
        ("makd.metadata.vocabulary", 3, STUDENTS),
        ("makd.metadata.buckets", 3, STUDENTS),
        ("makd.metadata.dimensions", 3, STUDENTS),
        ("makd.metadata.dropout", 0.1, STUDENTS),
        ("makd.metadata.dropout_all", 0.1, STUDENTS),
        ("makd.metadata.pretrain_epochs", 1, STUDENTS),
        ("makd.metadata.temperature", 0.1, STUDENTS),
        ("makd.metadata.encoder_lr", 0.1, STUDENTS),
        ("makd.metadata.sentence_model", "{sentences}", STUDENTS),
        ("heads.metadata.columns", {}, {"heads"}),
        ("heads.metadata.vocabulary", 3, {"heads"}),
        ("heads.metadata.buckets", 3, {"heads"}),
        ("heads.metadata.dropout", 0.1, {"heads"}),
        ("heads.metadata.dropout_all", 0.1, {"heads"}),
        ("heads.metadata.sentence_model", "{sentences}", {"heads"}),
        ("makd.metadata.leaks", "stop", set()),
        ("heads.metadata.leaks", "stop", set()),
    ],
    ("duplicates", LABELS): [
        ("label.duplicate_similarity", 0.5, {"duplicates"}),
        ("label.images.max_images", 3, {"duplicates"}),
    ],
    ("purified", NEAR): [
        ("near.refine_after", 3, {"near"}),
        ("near.pop_threshold", 0.1, {"near"}),
        ("near.pop_growth", 0.1, {"near"}),
        ("near.records_momentum", 0.5, set()),
    ],
    ("refined", STUDENT): [
        ("makd.refine_after", 3, set(STUDENTS)),
        ("makd.class_loss", "ce", set(STUDENTS)),
    ],
    ("named", ("base", "makd")): [
        ("makd.pool", 2, {"pool", *STUDENTS}),  # which images they are decides the students, too
        ("makd.target_temperature", 2, {"pool"}),
        ("makd.target_weights", "confidence", {"pool"}),
    ],
    ("rebalanced", NEAR): [
        ("near.records_momentum", 0.5, {"near"}),
        ("near.refine_after", 3, set()),
    ],
    ("chosen", LABELS): [
        ("label.images.select", "typical", {"selected"}),
        ("label.images.pool", 5, {"space", "selected"}),
        ("label.images.max_images", 3, {"selected"}),
        ("label.images.seed", 3, {"selected"}),
        (
            "label.rounds",
            2,
            {"first_selected", "first_answers", "first_labels", "selected", "second_answers", "answers"},
        ),
    ],
    # A source that is asked as label says is no other table; of a file the content counts.
    ("all", ("labels", "votes")): [
        ("label.sources", [{"kind": "ask"}], {"votes"}),
        ("label.sources", [{"kind": "ask", "name": "x", "prompt": "What is it?"}], {"answers", "votes"}),
        ("label.sources", [{"kind": "ask", "mllm": {"kind": "simulated"}}], {"answers", "votes"}),
        ("label.sources", [{"kind": "ask", "workers": {"max_workers": 3}}], {"votes"}),
        ("label.sources", [{"kind": "file", "path": "{answers}"}], {"answers", "votes"}),
        ("label.sources", [{"kind": "file", "path": "{answers}", "listed": 3}], {"answers", "labels", "votes"}),
        (
            "label.sources",
            [{"kind": "ask"}, {"kind": "file", "path": "{answers}"}],
            {"answers_file", "labels", "votes"},
        ),
    ],
    ("searched", ("candidates",)): [
        ("neighbours.method", "exact", {"candidates"}),
        ("neighbours.recall", 0.5, {"candidates"}),
    ],
    ("together", ("labels", "aspects")): [
        ("label.prompt", "What?", {"looks"}),
        ("aspects.instruction", "Say it.", {"looks"}),
        ("label.images.max_images", 2, {"looks", "answers"}),
    ],
    ("all", ("encoder",)): [
        ("distill.backbone", "resnet18", {"encoder"}),
        ("distill.backbone_args", {"drop_rate": 0.1}, {"encoder"}),
        ("distill.image_size", 64, {"encoder"}),
        ("distill.resize", 256, {"encoder"}),
        ("distill.split", "test", {"encoder"}),
        ("distill.max_images", 2, {"encoder"}),
        ("distill.epochs", 3, {"encoder"}),
        ("distill.batch_size", 3, {"encoder"}),
        ("distill.lr", 0.1, {"encoder"}),
        ("distill.weight_decay", 0.1, {"encoder"}),
        ("distill.warmup_epochs", 3, {"encoder"}),
        ("distill.ema_epochs", None, {"encoder"}),
        ("distill.min_crop", 0.3, {"encoder"}),
        ("distill.held_out", 3, {"encoder"}),
        ("distill.seed", 3, {"encoder"}),
        ("distill.workers.use_gpu", True, {"encoder"}),  # bf16 there
        ("ingest.limits.cut_bottom", 3, {"embeddings", "encoder"}),
        ("distill.teacher", {"kind": "clip"}, {"embeddings", "encoder"}),  # the first is not needed then
    ],
    ("all", ("adaptation",)): [
        # The others are not needed then.
        ("adapt.trust", "checked", {"adaptation", "embeddings", "issues", "space"}),
        ("adapt.max_images", 30, {"adaptation"}),
        ("adapt.judge_share", 0.5, {"adaptation"}),
        ("adapt.max_judged", 30, {"adaptation"}),
        ("adapt.confidence", 0.9, {"adaptation"}),
        ("adapt.min_gain", 0.1, {"adaptation"}),
        ("adapt.image_side", 64, {"adaptation"}),
        ("adapt.steps", 3, {"adaptation"}),
        ("adapt.photos", 3, {"adaptation"}),
        ("adapt.answers", 3, {"adaptation"}),
        ("adapt.temperature", 2, {"adaptation"}),
        ("adapt.stages", "explore", {"adaptation"}),
        ("adapt.beta", 0.1, {"adaptation"}),
        ("adapt.lr", 0.1, {"adaptation"}),
        ("adapt.rank", 3, {"adaptation"}),
        ("adapt.seed", 3, {"adaptation"}),
        ("label.prompt", "What is it?", {"answers", "adaptation"}),
        ("label.max_tokens", 9, {"answers", "adaptation"}),
        ("ingest.limits.cut_bottom", 3, {"answers", "embeddings", "adaptation"}),
    ],
    ("networks", ("encoder",)): [
        ("distill.spatial_weight", 0.5, {"encoder"}),
        ("distill.masked_weight", 0.5, {"encoder"}),
        ("clip.model", "{copy of clip}", {"encoder"}),
        ("embed.splits", ["train"], set()),
    ],
    ("sliced", ("report",)): [
        ("evaluate.slices.group_by", "folder", {"report"}),
        ("evaluate.slices.min_images", 3, {"report"}),
        ("evaluate.slices.max_values", 3, {"report"}),
    ],
    ("compared", ("comparison",)): [
        ("compare.weights", {"resnet18": "{other weights}"}, {"compared_resnet18_0"}),
        ("compare.silhouette_images", 3, {"comparison"}),
        ("compare.workers.num_cpus", 3, {"comparison"}),  # times and memory are of so many threads
        ("compare.workers.num_gpus", 1, {"comparison"}),
        ("makd.image_size", 64, {"compared_resnet18_0"}),
        ("makd.seed", 3, {"compared_resnet18_0"}),
        ("makd.alpha", 3, set()),
        ("makd.backbone", "resnet34", set()),
        ("evaluate.max_images", 1, {"comparison"}),
        ("evaluate.bootstrap", 3, {"comparison"}),
        ("evaluate.seed", 3, {"comparison"}),
        ("ingest.limits.cut_bottom", 3, {"compared_resnet18_0", "comparison"}),
    ],
    ("infer", ("predictions",)): [
        ("infer.split", "test", {"predictions"}),
        ("infer.model", "{other student}", {"predictions"}),
        ("infer.drift.measure", True, {"predictions"}),
    ],
    ("drifting", ("drift", "novel")): [
        ("infer.drift.reference_images", 21, set()),  # by their ids: there are fewer
        ("infer.drift.part_images", 3, {"drift"}),
        ("infer.drift.alpha", 0.01, {"drift"}),
        ("infer.drift.nearest", 2, {"drift_reference"}),
        ("infer.drift.false_alarms", 0.2, {"novel"}),
        ("infer.drift.max_novel", 3, {"novel"}),
        ("infer.drift.clusters", 3, {"novel"}),
        ("infer.drift.seed", 3, {"drift_reference", "novel"}),
    ],
    ("promised", ("predictions", "decided")): [
        ("infer.target_precision", 0.8, {"calibration"}),
        ("infer.confidence", 0.9, {"calibration"}),
        ("infer.calibrate_on", "truth", {"calibration"}),
        ("infer.queue_photos", 3, {"decided"}),
        ("infer.second_look_budget", 3, {"calibration", "second_looks"}),
        ("hierarchy", {"source": "file", "path": "{other kinds}"}, {"calibration", "decided"}),
    ],
    ("boxes", ("detector", "detections")): [
        ("detect.model.backbone", "resnet34", {"detector"}),
        ("detect.model.image_size", 64, {"detector"}),
        ("detect.model.max_size", 64, {"detector"}),
        ("detect.model.anchors", [8], {"detector"}),
        ("detect.model.channels", 64, {"detector"}),
        ("detect.model.head_width", 64, {"detector"}),
        ("detect.model.proposals", 64, {"detector"}),
        ("detect.model.sampled_boxes", 64, {"detector"}),
        ("detect.model.freeze_norm", True, {"detector"}),
        ("detect.pretrained", True, {"detector"}),
        ("detect.alpha", 3, {"detector"}),
        ("detect.aspects", "mllm", {"detector", "questions", "aspects"}),
        ("detect.questions", 3, {"detector"}),
        ("detect.epochs", 3, {"detector"}),
        ("detect.batch_size", 3, {"detector"}),
        ("detect.lr", 0.1, {"detector"}),
        ("detect.momentum", 0.1, {"detector"}),
        ("detect.weight_decay", 0.1, {"detector"}),
        ("detect.schedule", "cosine", {"detector"}),
        ("detect.milestones", [3], {"detector"}),
        ("detect.warmup_epochs", 3, {"detector"}),
        ("detect.clip_norm", 3, {"detector"}),
        ("detect.seed", 3, {"detector"}),
        ("detect.split", "test", {"detector"}),
        ("detect.test_split", "train", {"detections"}),
        ("detect.score_threshold", 0.5, {"detections"}),
        ("detect.max_detections", 3, {"detections"}),
        ("ingest.limits.cut_bottom", 3, {"detector", "detections"}),
    ],
}


def pool(rows_per_part: int, **more: Any) -> dict[str, Any]:
    """Other workers, which do other parts than of this size."""
    wide = {"min_workers": 2, "max_workers": 9, "num_cpus": 3, "accelerator_type": "H100", "memory_gb": 9}
    return {**wide, "rows_per_part": rows_per_part + 1, **more}


TRAINERS = {"num_workers": 3, "min_workers": 2, "num_cpus": 3, "max_failures": 9}
FAST = {
    "tensor_parallel_size": 2,
    "gpu_memory_utilization": 0.5,
    "cpu_kv_cache_gb": 3,
    "max_num_seqs": 3,
    "images_in_flight": 3,
    "image_cache_gb": 3,
    "share_rendering": False,
    "enforce_eager": True,
    "separate_process": True,
    "engine_args": {"max_num_batched_tokens": 8192, "block_size": 32, "async_scheduling": True},
}
PATIENT = {
    "base_url": "https://gpu:9000/v1/",
    "api_key_env": "OTHER_KEY",
    "concurrency": 3,
    "timeout_seconds": 3,
    "max_retries": 3,
    "max_wait_minutes": 3,
    "reply_cache": None,
}

# All of these at once, in the setup of that name: no stage's fingerprint changes.
DECIDES_NOTHING: dict[str, dict[str, Any]] = {
    "all": {
        "run": {"max_error_share": 0.5, "retry_failed": True, "take_over": True},
        "cluster": {
            "address": "auto",
            "num_cpus": 3,
            "num_gpus": 3,
            "object_store_gb": 3,
            "loopback": False,
            "metrics_port": 2000,
            "worker_logs": True,
            "limits": {"start_minutes": 3, "silent_minutes": 3, "place_minutes": 3},
        },
        "tracking": {"uri": "http://mlflow", "experiment": "e", "log_models": False},
        "ingest": {
            "source": {"path": "{other spelling of photos}/", "replaced": "keep"},
            "rows_per_part": 77,
            "limits": {
                "max_bytes": 3,
                "max_pixels": 3,
                "web": {
                    "allowed_hosts": ["a"],
                    "private_networks": ["10.0.0.0/8"],
                    "max_requests": 3,
                    "retries": 4,
                    "max_requests_per_host": 3,
                    "connect_seconds": 3,
                    "read_seconds": 3,
                    "total_seconds": 3,
                    "max_wait_seconds": 3,
                    "max_redirects": 3,
                    "host_failures": 9,
                    "host_pause_seconds": 9,
                    "user_agent": "me",
                },
            },
        },
        "mllm": FAST,
        "label": {"workers": pool(256, num_gpus=1)},
        # One list of all splits, in any order, is all.
        "embed": {"splits": ["test", "train"], "batch_images": 3, "workers": pool(4096)},
        "neighbours": {"exact_seconds": 3, "memory_gb": 3, "workers": pool(65_536, num_gpus=1)},
        "near": {"text_chunk": 3, "checkpoint_steps": 3, "workers": TRAINERS},
        "questions": {"workers": pool(1024, num_gpus=1), "generate": 9},
        "aspects": {"workers": pool(256, num_gpus=1)},
        "class_scores": {"workers": pool(256, num_gpus=1)},
        "signatures": {"workers": pool(64, num_gpus=1)},
        "hierarchy": {"rounds": 9, "workers": pool(256, num_gpus=1)},  # of no model that is asked
        "check": {"blurred": 3, "workers": pool(4096)},
        # Of a CPU `auto` is fp32.
        "makd": {
            "randaugment_magnitude": 3,  # of no operations
            "semi": {"threshold": 0.9},  # of the plain trainer
            "checkpoint_epochs": 3,
            "cache_gb": 3,
            "compile": True,
            "precision": "fp32",
            "workers": TRAINERS,
        },
        "augment": {"below": 3, "batch_images": 3, "workers": pool(64)},  # of alpha 0
        "infer": {"batch_images": 3, "workers": pool(4096)},
        "evaluate": {"methods": [*METHODS, "mllm"]},
        "baselines": {"cased": {"column": "of no CSV"}, "finer": {"llm": PATIENT}},
    },
    "server": {"mllm": PATIENT},
    "simulated": {"mllm": {"request_seconds": 1, "tokens_per_second": 1, "concurrency": 1, "start_seconds": 1}},
    "boxes": {
        "detect": {"checkpoint_epochs": 3, "batch_images": 3, "workers": TRAINERS, "infer_workers": pool(256)},
    },
    "compared": {"compare": {"max_ms": 3, "max_params": 3, "max_gmacs": 3}, "makd": {"base": False}},
    "searched": {"neighbours": {"tasks": False}},
    "adapted": {"adapt": {"checkpoint_steps": 3, "workers": pool(64)}},
    "networks": {"distill": {"checkpoint_epochs": 3, "cache_gb": 3, "workers": TRAINERS}},
}
TABLES_OF = {
    "compared": ("comparison",),
    "adapted": ("adaptation",),
    "networks": ("encoder",),
    "all": WHOLE,
    "tree": WHOLE,
    "server": LABELS,
    "simulated": LABELS,
    "boxes": ("detector", "detections"),
}

ELSEWHERE = {
    "run.budget.usd": "how far a run gets, and nothing of what it computes",
    "run.budget.tokens": "likewise",
    "run.increment": "by the listing that it makes: tests/pipelines/test_growth.py",
    "run.folder": "tables of another folder are others",
    "ingest.limits.allowed_roots": "in the samples alone: tests/pipelines/test_ingest.py",
    "compare.models": "which tables are among the inputs",
    "compare.seeds": "likewise",
    "compare.test_column": "by the ids of the photos: tests/pipelines/test_compare.py",
    "compare.test_values": "likewise",
    "heads.propagation": "which names are evaluated: tests/pipelines/test_heads.py",
    "heads.graph_images": "by the ids of the images: tests/pipelines/test_heads.py",
    "hierarchy.source": "by content, with hierarchy.path: the setup `tree`",
    "infer.drift.reference": "by content, with its model: tests/pipelines/test_drift.py",
    "infer.cost_groups": "by content, with infer.costs: tests/pipelines/test_heads.py",
    "makd.images": "by the ids of the images, where they are not all: tests/pipelines/test_student_sample.py",
    "embed.images": "by the ids of the images: tests/pipelines/test_student_sample.py",
    "makd.split": "who is learned from is told by the examples; with the split's rows in the table's inputs",
    "makd.target": "which tables are among the inputs",
    "label.reviewed": "only where somebody has decided something: tests/pipelines/test_reviewed.py",
    "makd.checked_weight": "only where somebody has checked something: tests/pipelines/test_pool_table.py",
    "makd.base": "whether there is a student of that name",
    "Workers.num_gpus": "by the stage: the rows above",
    "aspects.with_labels": "other stages: the setup `together`",
    "Kd.teacher": "by content: tests/pipelines/test_teacher_folder.py",
    "Dkd.teacher": "by content: tests/pipelines/test_teacher_folder.py",
    "DiffusionModel.pipeline": "by the folders that it needs: tests/fgvr/augment/test_diffusion.py",
    "DiffusionModel.subject": "by content, with subject_scale: tests/fgvr/augment/test_diffusion.py",
    "DiffusionModel.subject_scale": "likewise",
    "DiffusionModel.revision": "its commit: tests/fgvr/augment/test_diffusion.py",
    "DiffusionModel.controlnet_revision": "likewise",
    "VllmBackend.adapter": "by content: tests/fgvr/adapt/test_served.py",
    "VllmBackend.adapter_anyway": "whether it is refused: tests/fgvr/adapt/test_trusted.py",
    "VllmBackend.revision": "its commit: tests/fgvr/test_hub.py",
    "Clip.revision": "its commit: tests/fgvr/test_hub.py",
    "Clip.pretrained": "its content: tests/fgvr/test_digests.py",
    "AnswerFile": "the rows of label.sources, and tests/fgvr/answers/test_answer_files.py",
    "Label.combine": "it needs several sources: tests/pipelines/test_label_sources.py",
    "AskedModel": "the rows of label.sources: its fields are those of label",
    "FileVectors": "tests/pipelines/test_vector_sources.py",
    "TimmVectors.model": "by content: tests/pipelines/test_vector_sources.py",
    "TimmVectors.weights": "by content: tests/pipelines/test_vector_sources.py",
    "TimmVectors.revision": "its commit: tests/fgvr/encoders/test_timm_encoders.py",
    "FieldGuideSource": "the rows of SOURCES",
}
"""Fields that the tables cannot hold, and why."""

LISTED = {"path": "/data/p", "split_from": "none", "exclude": ["x"], "snapshot": "1"}
SOURCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # Kind: a source, and other values of its fields, each of which makes it another one.
    "folder": (
        {"path": "/data/p"},
        {
            "path": "/data/q",
            "class_from": "parent",
            "split_from": "top",
            "snapshot": "2",
            "extensions": [".jpg"],
            "exclude": ["x"],
        },
    ),
    "table": (
        {"path": "/data/p.csv"},
        {
            "path": "/other/p.csv",
            "uri_column": "u",
            "split_column": "s",
            "class_column": "c",
            "metadata_columns": ["m"],
            "group_column": "g",
            "test_share": 0.3,
            "test_seed": 2,
            "snapshot": "2",
        },
    ),
    "webdataset": (
        {"path": "/data/p"},
        {
            "path": "/data/q",
            "class_from": "cls",
            "class_key": "k",
            "split_from": "top",
            "snapshot": "2",
            "extensions": [".jpg"],
            "exclude": ["x"],
        },
    ),
    "parquet": (
        {"path": "/data/p"},
        {
            "path": "/data/q",
            "image_column": "i",
            "class_column": "c",
            "split_column": "s",
            "split_from": "top",
            "metadata_columns": ["m"],
            "group_column": "g",
            "test_share": 0.3,
            "test_seed": 2,
            "snapshot": "2",
            "exclude": ["x"],
        },
    ),
    "layout": (
        {"path": "/data/p", "name": "dtd"},
        {"path": "/data/q", "name": "cars", "val_as_train": True, "fold": 2, "snapshot": "2"},
    ),
    "coco": (
        {"path": "/data/p"},
        {
            "path": "/data/q",
            "train_annotations": "a",
            "train_images": "b",
            "test_annotations": "c",
            "test_images": "d",
            "snapshot": "2",
        },
    ),
    "field_guide": (
        {},
        {"draw_to": "/data/q", "train_per_class": 2, "test_per_class": 2, "difficulty": 0.3, "seed": 2},
    ),
    "bird_scenes": (
        {},
        {
            "draw_to": "/data/q",
            "train_scenes": 2,
            "test_scenes": 2,
            "size": 64,
            "birds": 2,
            "classes": 2,
            "difficulty": 0.3,
            "seed": 2,
        },
    ),
}
OF_ONE_DATA_SET = {
    "legacy_cars_offset": ("cars", True),
    "train_per_class": ("caltech101", 5),
    "split_seed": ("caltech101", 5),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that the setups name."""
    folder = tmp_path_factory.mktemp("prints")
    for name in ("photos", "elsewhere", "student", "other", "sentences"):
        (folder / name).mkdir()
    files = {
        "photos/a.jpg": "a",
        "questions.txt": "Is it red?\nIs it blue?\n",
        "questions2.txt": "Is it green?\nIs it blue?\n",
        "choices.txt": "Which colour? | red | blue | green\n",
        "choices2.txt": "Which colour? | red | blue | grey\n",
        "captions.txt": "a gull\n",
        "captions2.txt": "a tern\n",
        "nouns": "gull n 1 0 1 0 00000000\n",
        "nouns2": "tern n 1 0 1 0 00000000\n",
        "aliases.csv": "answer,label\ngull,Gull\n",
        "costs.csv": "true,predicted,cost\nGull,Tern,3\n",
        "kinds.csv": "name,genus,family\nGull,Larus,Laridae\nTern,Sterna,Laridae\n",
        "kinds2.csv": "name,genus,family\nGull,Gull,Laridae\nTern,Sterna,Laridae\n",
        "checked.csv": "uri,right_name\n/gull.jpg,Gull\n",
        "listed.csv": "uri\n/photos/1.jpg\n",
        "answers.csv": "uri,answer\na.jpg,gull\n",
        "prices.yaml": "date: 2026-01-01\nsource: a list\n",
        "weights.pth": "some",
        "other.pth": "other",
        "photos/weights.pth": "some",
        "student/model.json": "{}",
        "student/model.safetensors": "weights",
        "other/model.json": "{}",
        **{f"{name}/{file}": text for name in ("pipeline", "pipeline2") for file, text in PIPELINE.items()},
        "pipeline2/unet/w.safetensors": "other",
        "pipeline2/controlnet/w.safetensors": "other",
        "other/model.safetensors": "Weights",
        "sentences/modules.json": "[]",
        "sentences/model.safetensors": "weights",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name, source, file in (
        ("clip", CLIP_PATH, "open_clip_model.safetensors"),
        ("mllm", MLLM_PATH, "model.safetensors"),
    ):
        shutil.copytree(source, folder / name)
        with (folder / name / file).open("r+b") as weights:  # a byte in the middle, where no sample looks
            weights.seek(weights.seek(0, os.SEEK_END) // 2 + 12_345)
            byte = weights.read(1)
            weights.seek(-1, os.SEEK_CUR)
            weights.write(bytes([byte[0] ^ 1]))
    return folder


def files_of(place: Path) -> dict[str, str]:
    """What stands in braces in the tables."""
    return {
        "{copy of mllm}": str(place / "mllm"),
        "{copy of clip}": str(place / "clip"),
        "{sentences}": str(place / "sentences"),
        "{prices}": str(place / "prices.yaml"),
        "{nouns}": str(place / "nouns2"),
        "{captions}": str(place / "captions2.txt"),
        "{questions}": str(place / "questions2.txt"),
        "{choices}": str(place / "choices2.txt"),
        "{aliases}": str(place / "aliases.csv"),
        "{costs}": str(place / "costs.csv"),
        "{other kinds}": str(place / "kinds2.csv"),
        "{checked}": str(place / "checked.csv"),
        "{listed}": str(place / "listed.csv"),
        "{answers}": str(place / "answers.csv"),
        "{other weights}": str(place / "other.pth"),
        "{weights elsewhere}": str(place / "photos" / "weights.pth"),
        "{other student}": str(place / "other"),
        "{other pipeline}": str(place / "pipeline2"),
        "{other pipeline}/controlnet": str(place / "pipeline2" / "controlnet"),
        "{other spelling of photos}/": f"file://{place}/elsewhere/..//./photos/",
    }


def setup(name: str, place: Path) -> dict[str, Any]:
    """The config of a setup, as a file would have it."""
    base: dict[str, Any] = {
        "ingest": {"source": {"kind": "folder", "path": str(place / "photos")}},
        "questions": {"file": str(place / "questions.txt")},
        "signatures": {"file": str(place / "choices.txt")},
        "near": {"views": 2},
        "makd": {"distillation": {"kind": "kd", "teacher": "mllm"}},
        "baselines": {
            "wordnet": {"path": str(place / "nouns")},
            "cased": {"captions": str(place / "captions.txt")},
            "finer": {"llm": SERVER},
        },
        "evaluate": {"methods": METHODS, "report_images": 0},
    }
    own: dict[str, dict[str, Any]] = {
        "all": {},
        "tree": {"hierarchy": {"source": "file", "path": str(place / "kinds.csv"), "decide": "least_cost"}},
        "asked": {"hierarchy": {"source": "mllm", "decide": "least_cost"}},
        "sampled": {
            "label": {
                "samples": 2,
                "listed": 2,
                "temperature": 0.5,
                "merge_similarity": 0.9,
                "images": {"max_images": 2},
            }
        },
        "drawn": {"augment": {"alpha": 0.4, "generator": {"kind": "drawn"}}, "makd": NOT_TAUGHT},
        "diffused": {
            "augment": {"alpha": 0.4, "generator": {"kind": "diffusers", "model": str(place / "pipeline")}},
            "makd": NOT_TAUGHT,
        },
        "written": {
            "questions": {"file": None, "llm": SERVER},
            "aspects": {"max_images": 2},
        },
        "server": {"mllm": SERVER},
        "simulated": {"mllm": {"kind": "simulated"}, "embed": {"vectors": {"kind": "simulated"}}},
        "dkd": {"makd": {"distillation": {"kind": "dkd", "teacher": "mllm"}}},
        "started": {
            "makd": {
                "weights": str(place / "weights.pth"),
                "optimizer": "adamw",
                "randaugment": 2,
                "distillation": {"kind": "none"},
            }
        },
        "semi": {"makd": {"trainer": "semi", "distillation": {"kind": "none"}}},
        "beside": {
            "makd": {"metadata": {"columns": {"title": "text"}}, "distillation": {"kind": "none"}},
            "heads": {"metadata": {"columns": {"title": "text"}}},
        },
        "compared": {"compare": {"models": ["resnet18"], "seeds": 1}, "makd": {"target": "true", **NOT_TAUGHT}},
        "duplicates": {"label": {"duplicate_similarity": 0.9}},
        "chosen": {"label": {"images": {"select": "medoids", "max_images": 4}}},
        "searched": {"neighbours": {"method": "ivf"}},
        "purified": {"near": {"loss": "pop"}},
        "refined": {"makd": {"class_loss": "mixture"}},
        "named": {"makd": {"target": "near", "distillation": {"kind": "none"}}, "aspects": {"max_images": 1}},
        "rebalanced": {"near": {"loss": "records"}},
        "together": {"aspects": {"with_labels": True}},
        "mlp": {"heads": {"network": "mlp"}},
        "adapted": {},
        "networks": {"distill": {"teacher": {"kind": "clip"}}},
        "infer": {"infer": {"model": str(place / "student")}},
        "promised": {"infer": {"model": str(place / "student"), "target_precision": 0.9}},
        "drifting": {"infer": {"drift": {"measure": True}}, "makd": NOT_TAUGHT},
        "sliced": {"evaluate": {"slice_by": ["folder"], "methods": ["zs_clip"]}},
        "boxes": {
            "ingest": {"source": {"kind": "bird_scenes", "path": None}},
            "detect": {"aspects": "truth"},
        },
    }
    return merged(base, own[name])


def merged(base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """`other` over `base`; another kind replaces the part."""
    result = dict(base)
    for key, value in other.items():
        under = base.get(key)
        replaces = isinstance(value, dict) and "kind" in value
        result[key] = (
            merged(under, value) if isinstance(value, dict) and isinstance(under, dict) and not replaces else value
        )
    return result


def with_field(base: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    under = base.get(first) or {}
    return {**base, first: with_field(under, rest, value) if rest else value}


def filled(value: Any, files: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: filled(item, files) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, files) for item in value]
    return files.get(value, value) if isinstance(value, str) else value


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    made_light(monkeypatch)


CASES = [
    pytest.param(name, tables, *row, id=f"{name}-{row[0]}-{number}")
    for (name, tables), rows in DECIDES.items()
    for number, row in enumerate(rows)
]
_KNOWN: dict[tuple[str, tuple[str, ...]], Any] = {}


@pytest.mark.parametrize(("name", "tables", "field", "value", "stages"), CASES)
def test_what_decides(
    name: str, tables: tuple[str, ...], field: str, value: Any, stages: set[str], place: Path, tmp_path: Path
) -> None:
    base = setup(name, place)
    if (name, tables) not in _KNOWN:
        _KNOWN[name, tables] = prints_of(build(base), tmp_path / "base", tables)
    before = _KNOWN[name, tables]
    after = prints_of(build(with_field(base, field, filled(value, files_of(place)))), tmp_path / "run", tables)
    changed = {stage for stage in {**before, **after} if before.get(stage) != after.get(stage)}
    assert changed == {stage for stage in stages if stage in before or stage in after}
    assert not stages or changed


@pytest.mark.parametrize("name", sorted(DECIDES_NOTHING))
def test_what_decides_nothing(name: str, place: Path, tmp_path: Path) -> None:
    base, tables = setup(name, place), TABLES_OF.get(name, NEAR)
    other = filled(DECIDES_NOTHING[name], files_of(place))
    before = asking(build(base), tmp_path / "base", tables)
    after = asking(build(merged(base, other)), tmp_path / "run", tables)
    assert before.prints.keys() == after.prints.keys()
    for stage, decides in before.deciding.items():
        assert (stage, after.deciding[stage] if before.prints[stage] != after.prints[stage] else decides) == (
            stage,
            decides,
        )
        assert before.prints[stage] == after.prints[stage], stage


@pytest.mark.parametrize("kind", sorted(SOURCES))
def test_what_is_another_source(kind: str) -> None:
    first, others = SOURCES[kind]

    def source(**fields: Any) -> Any:
        made = build({"ingest": {"source": {"kind": kind, **first, **fields}, "limits": {"cut_bottom": 0}}})
        return ingest.deciding(made.ingest.source)

    seen = [repr(source())]
    for field, value in others.items():
        more = {"class_key": {"class_from": "json"}, "test_seed": {"test_share": 0.4}}.get(field, {})
        named = {"name": "dtd"} if kind == "layout" and field != "name" else {}
        if kind == "layout" and field == "val_as_train":
            named = {"name": "flowers"}
            assert source(**named) != source(**named, val_as_train=True)
            continue
        said = repr(source(**{**named, **more, field: value}))
        assert said not in seen, field
        seen.append(said)
    if kind == "layout":
        for field, (name, value) in OF_ONE_DATA_SET.items():
            assert source(name=name) != source(name=name, **{field: value})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("{place}/photos", "{place}/photos/"),
        ("{place}/photos", "file://{place}/photos"),
        ("{place}/photos", "file://localhost{place}/photos"),
        ("{place}/photos", "FILE://{place}/photos"),
        ("{place}/photos", "photos"),
        ("{place}/photos", "./photos/."),
        ("{place}/photos", "{place}//photos"),
        ("{place}/photos", "elsewhere/../photos"),
        ("{place}/photos", "~/photos"),
        ("{place}/photos", "link"),
        ("s3://bucket/photos", "S3://bucket/photos/"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "webdataset", "parquet", "coco"])
def test_one_source_in_other_words(
    kind: str, first: str, second: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    if not (place / "link").exists():
        (place / "link").symlink_to(place / "photos")

    def said(path: str) -> Any:
        source = {"kind": kind, "path": path.replace("{place}", str(place))}
        return ingest.deciding(build({"ingest": {"source": source}}).ingest.source)

    assert said(first) == said(second)


def test_one_text_in_two_working_directories_is_two_sources(place: Path, tmp_path: Path, monkeypatch: Any) -> None:
    sources = [
        build({"ingest": {"source": {"kind": kind, "path": path}}}).ingest.source
        for kind, path in (("folder", "photos"), ("table", "list.csv"), ("parquet", "p"), ("coco", "c"))
    ]
    monkeypatch.chdir(place)
    here = [ingest.deciding(source) for source in sources]
    monkeypatch.chdir(tmp_path)
    assert all(one != other for one, other in zip(here, map(ingest.deciding, sources), strict=True))


def test_keys_of_object_stores_are_taken_as_they_are() -> None:
    def said(path: str) -> Any:
        return ingest.deciding(build({"ingest": {"source": {"kind": "folder", "path": path}}}).ingest.source)

    keys = ["s3://b/a/photos", "s3://b/a//photos", "s3://b/a/../photos", "s3://b/./photos", "s3://b/A/photos"]
    assert len({repr(said(key)) for key in keys}) == len(keys)


def test_names_of_classes_in_a_file_of_their_own_count_by_their_content(tmp_path: Path) -> None:
    def state() -> Any:
        source = {"kind": "webdataset", "path": "/data", "class_from": "cls", "class_names": str(tmp_path / "n.txt")}
        made = build({"ingest": {"source": source}}).ingest.source
        return ingest.deciding(made), listing_state(made)

    (tmp_path / "n.txt").write_text("gull\n")
    before = state()
    assert str(tmp_path) not in repr(before)
    (tmp_path / "n.txt").write_text("tern\n")
    assert state() != before


def fields(model: type[BaseModel], place: str = "") -> Iterator[tuple[str, str]]:
    """(path, class.field) of every field below, each kind of a union included."""
    for name, field in model.model_fields.items():
        inner = list(parts(field.annotation))
        if not inner:
            yield f"{place}{name}", f"{model.__name__}.{name}"
        for part in inner:
            yield from fields(part, f"{place}{name}.")


def parts(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from parts(argument)


def leaves(tree: dict[str, Any], place: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{place}{key}"
        if isinstance(value, dict):
            yield from leaves(value, f"{place}{key}.")


def test_every_field_is_in_a_table() -> None:
    """A new field is either something that decides, or something that does not: write it above."""
    written = {row[0] for rows in DECIDES.values() for row in rows}
    written |= {path for tree in DECIDES_NOTHING.values() for path in leaves(tree)}
    for _, others in SOURCES.values():
        written |= {f"ingest.source.{field}" for field in others}
    written |= {f"ingest.source.{field}" for field in (*OF_ONE_DATA_SET, "class_names", "replaced")}
    # Parts of which the config has several are alike.
    of_class = {name for path, name in fields(Config) if path in written}
    left = {
        path
        for path, name in fields(Config)
        if not path.endswith("kind") and path not in written and name not in of_class
        if not {path, name, name.partition(".")[0]} & ELSEWHERE.keys()
    }
    assert not left


@pytest.mark.parametrize("field", ["aliases", "checked"])
def test_a_csv_that_a_spreadsheet_saved_decides_the_same(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_light(monkeypatch)
    text = {"aliases": "answer,label\nKüken,chick\n", "checked": "uri,right_name\n/photos/0.jpg,Küken\n"}[field]
    config = build({"label": {field: str(tmp_path / "it.csv")}})

    def labels(data: bytes) -> str:
        (tmp_path / "it.csv").write_bytes(data)
        return prints_of(config, tmp_path / "run", ("labels",))["labels"]

    typed = labels(text.encode())
    assert labels(text.replace("\n", "\r\n").encode("utf-8-sig")) == typed
    assert labels(text.replace("\n", "\r\n").replace(",", ";").encode("utf-16")) == typed
    assert labels(text.replace("Küken", "Pullus").encode()) != typed
