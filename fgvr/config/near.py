"""Labels, embeddings, candidate sets and prompt learning (NeaR)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fgvr.config.base import RUNTIME_ONLY, Part, TrainWorkers, Workers
from fgvr.config.data import Discovery
from fgvr.config.label_sources import AnswerFile, AskedModel, LabelSource
from fgvr.config.texts import ListPrompt, Phrase, Prompt
from fgvr.config.tree import Basic, Tuned
from fgvr.config.vectors import ClipVectors, Vectors

LABEL_PROMPT = "Provide a best fine-grained class label for this image."
_LIST = "List the {k} most likely fine-grained class labels for this image, the most likely one first"
LISTED_PROMPT = f"{_LIST}, one label per line, without any other text."
LISTED_QUESTION = f"{_LIST}."
"""The same for structured answers, whose form the engine enforces."""


class Label(Part):
    """label: the multimodal LLM names the images of the discovery set; its answers become a label space."""

    images: Basic[Discovery] = Discovery()
    """The discovery set."""
    sources: tuple[LabelSource, ...] = ()
    """Where labels come from, e.g. `[{kind: file, path: answers.csv}]`; a photo's own label: `combine`.
    Empty: `mllm` is asked as the fields below say. docs/label-sources.md."""
    combine: Literal["first", "reliability"] = "first"
    """An image's label where there are several sources: that of the `first`, or what all say together, each believed
    as far as it is reliable (`reliability`: learned from how they agree, and from `checked` photos)."""
    prompt: Prompt = LABEL_PROMPT
    """What the model is asked about each image (default: the paper's prompt)."""
    samples: int = Field(default=1, ge=1, le=100)
    """Answers sampled per image (self-consistency): the more of them give a name, the more it weighs among the image's
    own candidates. Above 1 a temperature is needed, e.g. 0.7."""
    listed: int = Field(default=1, ge=1, le=50)
    """Labels requested per answer; above 1 `listed_prompt` is used (the paper's MLLM-CS asks for 3)."""
    listed_prompt: ListPrompt = LISTED_PROMPT
    """Prompt for several labels; {k} becomes `listed`."""
    answer: Literal["free", "structured"] = "free"
    """`free`: the model answers in its own words and the name is parsed from them (the paper's way); `structured`: the
    engine or server constrains it to JSON with the name, for lists also with confidences, or "not visible"
    (docs/answers.md)."""
    max_tokens: int = Field(default=32, ge=1)
    """Longest answer, in tokens; multiplied by `listed` for several labels, and extended by what JSON needs. An answer
    cut off before its name was complete is a failed row."""
    temperature: float = Field(default=0, ge=0)
    """Sampling temperature; 0: the most probable answer. Above 0 every answer is sampled with a seed of its own."""
    aliases: str | None = None
    """CSV with columns `answer,label` that overrides the clean-up of names: an edited aliases.csv of an earlier run. A
    line covers all spellings of its answer, unless other lines give one of them another label: then each line covers
    its own spelling only."""
    checked: str | None = None
    """CSV with columns `uri,right_name` of photos that a person has looked at: issues.csv or audit.csv with the right
    names filled in. Their names are certain: labels, candidate sets and issues hold on to them."""
    reviewed: bool = True
    """Take what people decided on the review page (`pipelines/review.py`) from the run's folder: renamed, united and
    struck-out names, and photos with their right names, also of photos about which the MLLM was not asked. Photos of an
    audit sample and of `evaluate.split` teach nothing. false: the run computes what it would without them."""
    reask: float = Field(default=0, ge=0, le=1)
    """Share of the labels, the most suspicious first, about which the MLLM is asked again, as a closed choice between
    the label and the names suggested. A label is replaced only where the model's clear choice is also its neighbours'
    name (docs/label-issues.md). Needs a model that runs in the worker. 0: nobody is asked again."""
    merge_similarity: float | None = Field(default=1, ge=0, le=1)
    """Cosine of text embeddings from which names that differ by word order, one letter or added words are merged into
    one label ("Mallard duck"). At 1 only plurals and names with the same Latin name are merged. Below 1, products that
    differ in one word may be merged, too: check aliases.csv. null: only case and punctuation are ignored. Numbers and
    signs keep names apart at every value: "1.5 l" and "15 l", "C" and "C#"."""
    merge_model: str = "all-MiniLM-L6-v2"
    """Sentence-BERT model of these embeddings, as in evaluate.sentence_model; another model needs another threshold."""
    duplicate_similarity: float | None = Field(default=None, gt=0, le=1)
    """Cosine of CLIP vectors from which discovery images count as one photo, rescaled or recompressed: the model is
    asked about one of them, and all get its answer. Images are then embedded first. null: the model is asked about
    every image."""
    rounds: int = Field(default=1, ge=1, le=2)
    """2: half of the images are asked about first, the others are chosen where the names of the first are missing or
    disputed. Needs `images.select`; the model then waits for the choice in between."""
    seed: int = Field(default=0, ge=0)
    """Random seed of sampled answers."""
    workers: Basic[Workers] = Workers(rows_per_part=256)

    @property
    def merges_by_meaning(self) -> bool:
        """Whether names are compared by text embeddings, for which `merge_model` is needed."""
        return self.merge_similarity is not None and self.merge_similarity < 1

    def of_source(self, source: LabelSource | None) -> Self:
        """These settings as a source has them: how a model is asked, and the form of its answers or of a file's."""
        match source:
            case AskedModel():
                return self.model_copy(update=source.overrides())
            case AnswerFile():
                return self.model_copy(update={"listed": source.listed, "answer": source.answer})
            case _:
                return self

    @model_validator(mode="after")
    def _rounds_are_chosen(self) -> Self:
        if self.rounds > 1 and not self.images.chosen:
            raise ValueError(
                f"rounds = {self.rounds}: random images are not chosen by earlier answers; set label.images.select to "
                "medoids or typical"
            )
        if self.rounds > (self.images.max_images or 0) > 0:
            raise ValueError(f"rounds = {self.rounds}: label.images.max_images = 1 leaves nothing for the second")
        return self

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        for source in self.sources or (None,):
            asked = self.of_source(source)
            if isinstance(source, AnswerFile) or asked.samples == 1 or asked.temperature > 0:
                continue
            raise ValueError(
                f"samples = {asked.samples} needs a temperature above 0: at 0 all answers about an image are the same; "
                f"set label.temperature, e.g. 0.7{'' if source is None else f' (source {source.name})'}"
            )
        return self

    @model_validator(mode="after")
    def _sources_differ(self) -> Self:
        names = [source.name for source in self.sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"sources: two are called {twice[0]}; give each a name of its own")
        if self.duplicate_similarity is not None and (len(names) > 1 or isinstance(self.source, AnswerFile)):
            raise ValueError(
                "duplicate_similarity: it saves requests by sharing an answer, and with several sources or a file of "
                "answers each photo has answers of its own; leave one of the two out"
            )
        if self.combine != "first" and len(names) < 2:
            raise ValueError(f"combine = {self.combine}: it needs several sources; name them in label.sources")
        return self

    @property
    def source(self) -> LabelSource | None:
        """The source of the photos' own labels; None: `mllm`, asked as these fields say."""
        return self.sources[0] if self.sources else None


class Embed(Part):
    """embed: CLIP image vectors of all samples."""

    splits: tuple[str, ...] | None = None
    """Splits to embed; null: all."""
    images: Tuned[Literal["all", "needed"]] = "all"
    """Which images of these splits: `all`, or `needed`: those to be named, trained on or evaluated, which is all that
    the job itself reads. To search among all photos, embed all."""
    batch_images: int = Field(default=64, ge=1)
    """Most images per forward pass. On a CPU fewer go through at once (6 of 224 × 224 pixels). Lower it when memory
    runs out; it changes results by rounding only."""
    vectors: Vectors = ClipVectors()
    """Where the vectors come from: docs/encoders.md."""
    workers: Workers = Workers(rows_per_part=4096)


class Candidates(Part):
    """candidates: the labels of an image's nearest neighbours become its candidate set."""

    k: Tuned[int] = Field(default=3, ge=1)
    """Number of nearest images, the image itself included (paper: 3). `adaptive` chooses its own."""
    method: Tuned[Literal["neighbours", "adaptive", "posterior", "mllm", "random", "single"]] = "neighbours"
    """`neighbours`: the names of all k images; `adaptive`: the likely names of up to 11 images, each vote weighted by
    its reliability, which is estimated without true labels; `posterior`: the names that are probable by own answer,
    CLIP's text tower and neighbours together; `mllm`: the image's own names (`label.listed`, the paper's MLLM-CS, or
    `label.samples`); `random`: its own label and k - 1 others of the label space (the paper's Random-CS); `single`:
    only its own label."""
    guard: Tuned[bool] = False
    """Use the sets only if they agree better than own labels with labels that were held out, else the own labels. The
    comparison is made and reported in any case (docs/candidates.md)."""
    weights: Literal["uniform", "multiplicity", "similarity"] = "uniform"
    """Initial weights of the candidates for `neighbours` and `mllm`: uniform as in the paper, by the number of images
    (or answers) that give the name, or by the cosine similarity of the neighbours."""
    seed: int = Field(default=0, ge=0)
    """Random seed of the random sets."""


class Near(Part):
    """near: prompt learning on candidate sets, CoOp with PRODEN."""

    newer: ClassVar[Mapping[str, frozenset[str]]] = {
        "refine_after": frozenset({"pop", "mixture"}),
        "pop_threshold": frozenset({"pop"}),
        "pop_growth": frozenset({"pop"}),
        "records_momentum": frozenset({"records"}),
    }
    """Fields that were added later, with the losses that they concern: with other losses they decide nothing, so that
    tables of earlier versions are still found."""

    loss: Literal["proden", "ce", "cc", "rc", "gce", "lws", "cavl", "pop", "records", "mixture"] = "proden"
    """Partial-label loss. `gce` tolerates sets without the true label best; `ce` is cross entropy on the MLLM's own
    label, the lower baseline. For the noise of real labellers (docs/candidates.md): `pop` takes candidates out of their
    sets for good; `records` keeps frequent names from winning the sets of rare ones; `mixture` tells clean own labels
    from noisy ones by their losses, and refines the noisy ones."""
    context_length: int = Field(default=16, ge=1, le=64)
    """Number of learned context tokens."""
    context_init: Phrase | None = None
    """Phrase whose token embeddings initialise the context, e.g. "a photo of a"; null: random, N(0, 0.02)."""
    class_specific: bool = False
    """Learn a separate context for every name instead of a shared one."""
    name_position: Literal["end", "middle", "front"] = "end"
    """Where in the prompt the name stands. At the end the context is a prefix that all names share, which trains much
    faster."""
    epochs: Tuned[int] = Field(default=100, ge=1)
    """Passes over the discovery set. Raise it for small sets, of which a pass has few steps."""
    batch_size: int = Field(default=32, ge=1)
    """Images per step; one pass of all names through the text tower serves the whole batch."""
    lr: Tuned[float] = Field(default=0.002, gt=0)
    """Peak learning rate of SGD. Sweep it for new data (docs/tuning.md)."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Weight decay of SGD."""
    warmup_epochs: int = Field(default=1, ge=0)
    """Epochs at a learning rate of 1e-5 before the cosine schedule."""
    frozen_epochs: int = Field(default=0, ge=0)
    """Epochs before the candidate weights are first updated; raise it where a prompt that starts badly locks in wrong
    candidates."""
    views: int = Field(default=1, ge=1)
    """Cached augmented views per image; 1: the plain embedding only."""
    text_chunk: Annotated[int, RUNTIME_ONLY] = Field(default=256, ge=1)
    """Names in the text tower at once, which bounds memory for any size of label space. Lower it when memory runs out;
    it does not change the result."""
    validation_share: float = Field(default=0, ge=0, lt=1)
    """Share of the images held out to choose the best epoch by their candidate sets; 0: the last epoch is used."""
    checkpoint_steps: Annotated[int, RUNTIME_ONLY] = Field(default=500, ge=1)
    """Steps between checkpoints: the most that is lost when a worker dies."""
    gce_q: float = Field(default=0.7, gt=0, le=1)
    """q of the generalised cross entropy (loss `gce`): near 0 it is cross entropy, at 1 mean absolute error."""
    lws_beta: float = Field(default=1, ge=0)
    """Weight of the labels outside the set (loss `lws`; paper: 1 or 2)."""
    refine_after: int = Field(default=10, ge=0)
    """Epochs before `pop` first removes candidates (its authors: 20 of 500) and `mixture` first splits the labels
    (DivideMix: 10 to 30 of 300). Raise it where right labels are learned late, lower it where wrong ones are early."""
    pop_threshold: float = Field(default=1e-3, ge=0, lt=1)
    """A candidate leaves its set when its mean weight over five epochs is below this share of the set's largest (loss
    `pop`). Raise it, e.g. to 0.05, to purify faster in short runs."""
    pop_growth: float = Field(default=1e-3, ge=0)
    """Growth of `pop_threshold` whenever hardly a candidate left its set; 0.001: a tenth of a percent (loss `pop`)."""
    records_momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of the mean image feature from which the class prior is read (loss `records`; paper: 0.9). Raise it for
    small batches."""
    own_weight: float = Field(default=0, ge=0, lt=1)
    """Weight that the MLLM's own label keeps in every update (proden, rc, lws, cavl, pop, records), because sets of
    neighbours can miss the true label."""
    seed: int = Field(default=0, ge=0)
    """Random seed of the context, the order of images and the views."""
    workers: Annotated[Tuned[TrainWorkers], RUNTIME_ONLY] = TrainWorkers()

    def deciding(self) -> dict[str, Any]:
        """See Part; without newer fields that do not concern the loss."""
        unused = {name for name, losses in self.newer.items() if self.loss not in losses}
        return {name: value for name, value in super().deciding().items() if name not in unused}
