"""Aspect questions, their probabilities, and the student that learns them (MaKD)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from fgvr.config.base import RUNTIME_ONLY, Part, TrainWorkers, Workers
from fgvr.config.distillation import MLLM_TEACHER, Distillation, NoDistillation
from fgvr.config.metadata import FusedMetadata
from fgvr.config.models import Mllm
from fgvr.config.semi import STRONG, Semi
from fgvr.config.texts import Prompt
from fgvr.config.tree import Basic, Tuned

ASPECT_INSTRUCTION = "The answer must always be either Yes or No (do not provide any other response)."

NEWER = (
    *("weights", "optimizer", "layer_decay", "freeze_epochs", "ema", "label_smoothing", "mixup", "cutmix"),
    *("randaugment", "trainer", "signature_weight", "batch_norm"),
)
"""Fields of `Makd` that came later, and decide something where they are not at their default."""


class Questions(Part):
    """questions: yes/no questions about visual aspects, from a file or written by a language model."""

    file: Basic[str | None] = None
    """Text file with one question per line, best first, or a CSV or TSV with a column `text`; null: the source's own
    questions (field guide), else the language model `questions.llm` writes them."""
    llm: Mllm | None = None
    """Language model that writes and ranks the questions; null: a file is needed."""
    generate: int = Field(default=100, ge=1)
    """Number of questions requested before the ranking (paper: 100)."""
    keep: int = Field(default=50, ge=1)
    """Q, the number of questions kept, by rank (paper: 10 to 50). Each costs one request per image."""
    duplicate_similarity: float | None = Field(default=0.94, ge=0, le=1)
    """Cosine of text embeddings from which a written question is dropped as a repetition, where it has all words of a
    better ranked one and more. At 1 only questions with the same words are. null: only case and punctuation are
    ignored."""
    duplicate_model: str = "all-MiniLM-L6-v2"
    """Sentence-BERT model of these embeddings, as in evaluate.sentence_model; another model needs another threshold."""
    subject: Tuned[Prompt] = "the main object of the photo"
    """What the classes are, in words for the prompt: "birds", "grocery products"."""
    workers: Workers = Workers()
    """Where `llm` runs (one worker)."""

    @property
    def compares_meaning(self) -> bool:
        """Whether written questions are compared by text embeddings, for which `duplicate_model` is needed."""
        asked = self.file is None and self.llm is not None
        return asked and self.duplicate_similarity is not None and self.duplicate_similarity < 1


class Aspects(Part):
    """aspects: p(yes) of every question for every training image of the student."""

    may_be_empty: ClassVar[frozenset[str]] = frozenset({"instruction"})

    split: str = "train"
    """Split whose images are asked about: the one that the student (`makd.split`) or the detector trains on."""
    max_images: Basic[int | None] = Field(default=20_000, ge=1)
    """Number of images that the MLLM answers the questions about and the students train on (`makd.images`), drawn at
    random (null: the whole split, which for millions of photos costs several times as much as naming all of them). A
    larger sample contains the smaller ones, and for the same split and `seed` those of `label.images.max_images`."""
    instruction: str = ASPECT_INSTRUCTION
    """Said once, beside the question (the paper's words)."""
    order: Literal["shared_prefix", "paper"] = "shared_prefix"
    """`shared_prefix`: the instruction before the question, so that questions share a longer prefix; `paper`: after
    it."""
    words: tuple[str, str] = ("Yes", "No")
    """The two replies whose probabilities are compared, yes first; each must be one token of the model."""
    min_label_mass: float = Field(default=1e-4, ge=0, le=1)
    """Smallest mean of p(Yes) + p(No) over an image's questions; below it the image is a failed row, because the model
    wanted to say something else."""
    with_labels: bool = False
    """Ask these questions and those of label in one pass over the images of both, so that an image is read,
    preprocessed and put into the prefix cache once. Only where the questions do not depend on the labels: from a file,
    or for known classes."""
    seed: int = Field(default=0, ge=0)
    """Random seed of the sample of `max_images`."""
    workers: Workers = Workers(rows_per_part=256)

    @model_validator(mode="after")
    def _words_differ(self) -> Self:
        yes, no = (word.strip() for word in self.words)
        if not yes or not no or yes == no:
            raise ValueError(f"words = {list(self.words)}: p(yes) compares two different words")
        return self


class ClassScores(Part):
    """class_scores: how likely the MLLM finds each class name as its answer, for the teacher `mllm` of distillation."""

    prompt: Prompt | None = None
    """What the model is asked about each image; null: `label.prompt`."""
    workers: Workers = Workers(rows_per_part=256)


class Makd(Part):
    """makd: a small student with class and aspect outputs, CE + alpha · BCE."""

    backbone: Basic[str] = "resnet18"
    """Name of a timm model (paper: resnet18, resnet34, mobilenetv1_100, efficientnet_b0)."""
    weights: Tuned[str | None] = None
    """Pretrained weights of this backbone to start from: a file (.safetensors, .pth), a folder as timm saves it, a
    model folder of an earlier student, a hub name (hf-hub:timm/resnet18.a1_in1k), a tag of timm (a1_in1k), or `demo`
    (backbone test_byobnet): it knows drawn birds only; null: from scratch (paper). The classifier is new.
    docs/pretrained.md."""
    image_size: Basic[int] = Field(default=224, ge=16)
    """Side of the student's square input, in pixels: smaller is faster, larger shows finer details."""
    resize: int | None = Field(default=None, ge=16)
    """Shorter side before the centre crop in validation and inference, in pixels; null: `image_size` (ImageNet:
    256)."""
    backbone_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the timm model, under timm's names (drop_rate, drop_path_rate …)."""
    split: str = "train"
    """Split to train on; it cannot be the evaluation split."""
    images: Literal["auto", "asked", "pool", "all"] = "auto"
    """`asked`: train on the images that aspects asks about (`aspects.max_images`), with aspects and without; `pool`: on
    these and on others up to `pool` in all, which teach classes alone; `all`: on the whole split; `auto`: on the pool
    where the classes are names that a method gave (`target`) or `trainer` is semi, else on those asked about."""
    pool: Basic[int] = Field(default=100_000, ge=1)
    """Most images of the pool, drawn at random. Each needs a vector (embed) and is read in every epoch; more teach
    more (docs/students.md)."""
    fraction: float = Field(default=1, gt=0, le=1)
    """Share of these images to train on, taken from every class by `seed`; a larger share contains the smaller ones."""
    target: Tuned[Literal["auto", "true", "near", "heads", "label_prototypes"]] = "auto"
    """Class targets: the true labels, or the names that NeaR, the trained head or the prototypes give from stored
    vectors; `auto`: the true ones where all images have one, else NeaR's (the head's where vectors have no texts)."""
    target_temperature: float | None = Field(default=None, gt=0)
    """null: one name per image; else its probabilities for the best eight names, softer above 1, sharper below."""
    target_weights: Literal["none", "confidence", "agreement", "issues"] = "none"
    """How much an image's name counts: always 1; its probability; the share of NeaR, head, prototypes and the MLLM that
    give it, of those that the run has; or less the more suspicious `issues` finds it."""
    checked_weight: float = Field(default=4, ge=1)
    """How much an image counts whose name a person has checked (`label.checked`); others count at most 1."""
    trainer: Tuned[Literal["plain", "semi"]] = "plain"
    """`plain`: every image teaches its class target; `semi`: only trusted targets count, and the moving average of the
    student names the other images (docs/students.md)."""
    semi: Semi = Semi()
    """Pseudo-labels of the trainer `semi`."""
    metadata: FusedMetadata = FusedMetadata()
    """Columns of the samples that the student sees beside the photo; none by default."""
    class_loss: Literal["ce", "mixture"] = "ce"
    """`ce`: cross entropy with the class targets; `mixture`: for targets with noise, as NeaR's labels: from
    `refine_after` on a target counts as far as its loss says it is clean, and the student's own prediction for the rest
    (docs/distillation.md)."""
    refine_after: int = Field(default=10, ge=1)
    """Epochs before `mixture` first tells clean targets from noisy ones (DivideMix: 10 to 30 of 300). Raise it where
    right targets are learned late."""
    alpha: float = Field(default=4, ge=0)
    """Weight of the aspect loss (paper: 4; the 50 of its code hurts). 0: without aspects."""
    questions: Tuned[int | None] = Field(default=None, ge=1)
    """Q, the number of aspects learned: the best ranked questions; null: all that were asked."""
    aspect_loss: Literal["bce", "kl", "softmax_kl"] = "bce"
    """`bce`; `kl`: of (p, 1 − p), which differs from `bce` by p's entropy and has the same gradients; `softmax_kl`:
    between an image's p(yes), scaled to sum to 1, and a softmax over its aspects."""
    aspect_targets: Literal["mllm", "random"] = "mllm"
    """`mllm`: the MLLM's answers; `random`: sigmoid(N(0, 1)) by seed, image and question, a control for which nothing
    is asked."""
    unasked_aspects: Literal["none", "class_mean"] = "none"
    """Aspects of images that the MLLM was not asked about, or on which it failed: none, or what it said on average
    about the images of the same class."""
    signature_weight: Tuned[float] = Field(default=0, ge=0)
    """Weight of the loss of signatures: what a language model answers to multiple-choice questions about the image's
    class (`signatures`, LaViD), for the student with aspects. 0: none are asked or learned."""
    distillation: Distillation = NoDistillation()
    """Teacher of the class outputs, for the student with aspects and the one without (base): `kind: none`, `kd` or
    `dkd`."""
    base: Annotated[bool, RUNTIME_ONLY] = True
    """Also train the same student without aspects, for comparison."""
    epochs: Basic[int] = Field(default=240, ge=1)
    """Passes over the training images; fewer train faster and less well."""
    max_steps: int | None = Field(default=None, ge=1)
    """Upper limit of training steps: fewer epochs, but at least one, where all of them would take more; `milestones`
    and `warmup_epochs` are scaled with them. null: no limit."""
    batch_size: int = Field(default=16, ge=2)
    """Images per step, over all workers."""
    optimizer: Tuned[Literal["sgd", "adamw"]] = "sgd"
    """`sgd` with momentum (paper), or `adamw`, whose rate is far below SGD's: 1e-4 to 2e-3. AdamW decays no biases,
    norms and position embeddings."""
    lr: Tuned[float] = Field(default=0.01, gt=0)
    """Peak learning rate. Sweep it for new data (docs/tuning.md); lower it with a teacher (docs/distillation.md)."""
    layer_decay: float = Field(default=1, gt=0, le=1)
    """Factor by which each layer learns more slowly than the one above it, for pretrained weights: 0.65 to 0.9; 1: all
    layers learn at `lr`."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Weight decay: of SGD as in the paper, of AdamW usually 0.05."""
    schedule: Literal["milestones", "cosine"] = "milestones"
    """Learning rate schedule: `milestones` divides the rate by ten after each of them; `cosine` lowers it to zero."""
    milestones: tuple[int, ...] = (150, 180, 210)
    """Epochs after which the learning rate is divided by ten (schedule `milestones`)."""
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs of linear warm-up of the learning rate."""
    freeze_epochs: int = Field(default=0, ge=0)
    """Epochs at the start in which only the new classifier learns, on `weights` and batch-norm statistics that stay as
    they are; `epochs` or more: all of them (a linear probe)."""
    batch_norm: Literal["batch", "frozen"] = "batch"
    """By which means and variances batch normalisation normalises in training: those of each step's images (`batch`),
    or those that come with `weights`, which then stay as they are (`frozen`; scales and shifts still learn): for few
    photos, at a lower rate (docs/pretrained.md)."""
    ema: float | None = Field(default=None, gt=0)
    """Half-life, in images learned from, of an exponential moving average of the weights, which is then what is
    validated and saved: 2 to 10 epochs' worth. null: no average, the weights themselves; with `trainer: semi`, whose
    teacher it is, a twentieth of all images learned from."""
    min_crop: float = Field(default=0.08, gt=0, le=1)
    """Smallest share of the image's area that a random crop keeps."""
    label_smoothing: float = Field(default=0, ge=0, lt=1)
    """Share of each class target that is spread evenly over all classes (usual: 0.1)."""
    mixup: float = Field(default=0, ge=0)
    """α of mixup: a step's images are blended in pairs by a share from Beta(α, α), and so are their classes and aspects
    (usual: 0.2 to 0.8); 0: no mixup."""
    cutmix: float = Field(default=0, ge=0)
    """α of CutMix: a rectangle of each image comes from its partner (usual: 1); with mixup, each step draws one of the
    two. 0: no CutMix."""
    randaugment: int = Field(default=0, ge=0)
    """Number of random operations of RandAugment on each crop (usual: 2), which also change colours; 0: crops and flips
    only."""
    randaugment_magnitude: float = Field(default=9, ge=0, le=10)
    """How strong these operations are, 0 to 10."""
    validation_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training images held out to choose the best epoch; 0: the last epoch is used. Raise it where
    these are few, which makes the choice noisy."""
    checkpoint_epochs: Annotated[int, RUNTIME_ONLY] = Field(default=1, ge=1)
    """Epochs between checkpoints: the most that is lost when a worker dies."""
    cache_gb: Annotated[float, RUNTIME_ONLY] = Field(default=16, gt=0)
    """Disk space for decoded training images, in GiB, under FGVR_CACHE, memory-mapped; images beyond it are decoded
    again in every epoch."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of activations in training: bfloat16 autocast, or float32 throughout; `auto`: bf16 on GPUs that support
    it (compute capability 8.0 and above), else fp32. CPUs with AVX-512 BF16 or AMX train large students about twice as
    fast with bf16; layers whose maps are smaller than their stride stay in fp32 there, because their bf16 gradients are
    wrong. The precision is stored with the student, and inference uses the same where its device can."""
    compile: Annotated[bool, RUNTIME_ONLY] = False
    """torch.compile the student: a slower start, then faster steps; needs a C++ compiler."""
    seed: int = Field(default=0, ge=0)
    """Random seed of weights, order and augmentation."""
    workers: Annotated[Basic[TrainWorkers], RUNTIME_ONLY] = TrainWorkers()

    def deciding(self) -> dict[str, Any]:
        """See Part; newer fields count only where they are used: students of earlier versions are still found."""
        unused = {"class_loss", "refine_after"} if self.class_loss == "ce" else set()
        unused |= {"unasked_aspects"} if self.unasked_aspects == "none" else set()
        unused |= {"pool", "target_temperature", "target_weights", "checked_weight"}  # the table `pool` knows them
        unused |= {name for name in NEWER if getattr(self, name) == type(self).model_fields[name].default}
        unused |= {"randaugment_magnitude"} if not self.operations else set()
        unused |= {"semi"} if self.trainer == "plain" else set()
        unused |= set() if self.metadata.on else {"metadata"}
        unused |= {"momentum"} if self.optimizer != "sgd" else set()
        return {name: value for name, value in super().deciding().items() if name not in unused}

    @property
    def operations(self) -> int:
        """Operations of RandAugment on the crops that it changes: all, or with pseudo-labels the strong ones."""
        return self.randaugment or (STRONG if self.trainer == "semi" else 0)

    @property
    def mixes(self) -> bool:
        """Whether a step's images are mixed in pairs."""
        return self.mixup > 0 or self.cutmix > 0

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        """Refuses options that contradict each other."""
        mixing = "mixup" if self.mixup else "cutmix"
        if self.freeze_epochs and self.weights is None:
            raise ValueError(
                f"freeze_epochs = {self.freeze_epochs} without weights: a frozen backbone that starts at random learns "
                "nothing. Name pretrained weights (weights), or set freeze_epochs to 0"
            )
        if self.batch_norm == "frozen" and self.weights is None:
            raise ValueError(
                "batch_norm = frozen without weights: a network that starts at random has no statistics to keep. Name "
                "pretrained weights (weights), or set batch_norm to batch"
            )
        if self.class_loss == "mixture" and (self.mixes or self.label_smoothing):
            name = mixing if self.mixes else "label_smoothing"
            raise ValueError(
                f"{name} with class_loss = mixture, which tells clean targets from noisy ones by the loss of an image "
                f"with its own target: set {name} to 0, or class_loss to ce"
            )
        taught = self.distillation
        if self.metadata.on:
            self._beside_the_photo(mixing)
        if self.trainer == "semi":
            self._alone(mixing)
        if self.mixes and taught.kind == "dkd":
            raise ValueError(
                f"{mixing} with distillation.kind = dkd, which needs one class per image: take kd, or set {mixing} to 0"
            )
        if self.mixes and taught.kind != "none" and taught.teacher == MLLM_TEACHER:
            raise ValueError(
                f"{mixing} with distillation.teacher = {MLLM_TEACHER}, whose scores are those of whole photos: take a "
                f"student as the teacher, or set {mixing} to 0"
            )
        return self

    def _beside_the_photo(self, mixing: str) -> None:
        """Refuses what cannot be combined with metadata."""
        instead = {
            "trainer": (self.trainer == "semi", "whose teacher names photos alone", "plain"),
            mixing: (self.mixes, "which blends photos, but no prices and places", "0"),
        }
        for field, (used, why, value) in instead.items():
            if used:
                raise ValueError(f"{field} with metadata.columns, {why}: set {field} to {value}, or leave columns away")
        before = self.metadata.pretrain_epochs
        if before >= self.epochs:
            raise ValueError(f"metadata.pretrain_epochs = {before} of {self.epochs} epochs leave none to learn classes")
        if before and self.class_loss == "mixture":
            raise ValueError(
                "metadata.pretrain_epochs with class_loss = mixture, which judges targets by losses from the first "
                "epoch on: set pretrain_epochs to 0, or class_loss to ce"
            )

    def _alone(self, mixing: str) -> None:
        """Refuses what the trainer `semi` replaces or cannot use."""
        instead = {
            mixing: (self.mixes, "which blends photos by itself (semi.mixup)", "0"),
            "class_loss": (self.class_loss != "ce", "which learns trusted targets only", "ce"),
            "distillation.kind": (self.distillation.kind != "none", "which has a teacher of its own", "none"),
        }
        for field, (used, why, value) in instead.items():
            if used:
                raise ValueError(f"{field} with trainer = semi, {why}: set {field} to {value}, or trainer to plain")

    @field_validator("target", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        """The choice "true", which YAML, and so the command line, reads as a boolean."""
        return "true" if value is True else value
