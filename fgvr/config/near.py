"""Labels, embeddings, candidate sets and prompt learning (NeaR)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fgvr.config.base import Part, TrainWorkers, Workers
from fgvr.config.data import Discovery
from fgvr.config.models import ClipVectors, Vectors
from fgvr.config.texts import ListPrompt, Phrase, Prompt

LABEL_PROMPT = "Provide a best fine-grained class label for this image."
_LIST = "List the {k} most likely fine-grained class labels for this image, the most likely one first"
LISTED_PROMPT = f"{_LIST}, one label per line, without any other text."
LISTED_QUESTION = f"{_LIST}."
"""The same without the form of the answer, for structured ones."""


class Label(Part):
    """label: the multimodal LLM names the images of the discovery set; answers become a label space."""

    images: Discovery = Discovery()
    """The discovery set."""
    prompt: Prompt = LABEL_PROMPT
    """What the model is asked, beside the image (default: the paper's prompt)."""
    samples: int = Field(default=1, ge=1, le=100)
    """Answers about each image (self-consistency): the more of them give a name, the heavier it weighs among the
    image's own candidates. Above 1 they must be sampled: set a temperature, e.g. 0.7."""
    listed: int = Field(default=1, ge=1, le=50)
    """Labels asked for in each answer; above 1 with `listed_prompt` (the paper's MLLM-CS asks for 3)."""
    listed_prompt: ListPrompt = LISTED_PROMPT
    """What the model is asked for several labels; {k} becomes `listed`."""
    answer: Literal["free", "structured"] = "free"
    """`free`: the model answers as it likes, and the name is read from its words (the paper's way); `structured`: the
    engine or server holds it to JSON with the name, of lists with confidences, or "not visible" (docs/answers.md)."""
    max_tokens: int = Field(default=32, ge=1)
    """Longest answer, tokens; `listed` times as long for several labels, and longer by what JSON needs. An answer that
    is cut off before its name was complete is a failed row."""
    temperature: float = Field(default=0, ge=0)
    """0: the most probable answer. Above 0 the answer is sampled, with a seed of its own for every answer."""
    aliases: str | None = None
    """CSV with columns `answer,label` that overrules the clean-up: an edited aliases.csv of an earlier run. A line
    stands for all spellings of its answer, unless another line gives one of them another label: then each for its own.
    """
    merge_similarity: float | None = Field(default=1, ge=0, le=1)
    """Cosine of text embeddings from which names that differ by word order, one letter or added words are one label
    ("Mallard duck"); plurals and names with one Latin name always are, and at 1 nothing else. Lower, products that
    differ in a word may be united: look through aliases.csv. null: only case and punctuation are forgiven. Numbers and
    signs tell names apart at every value: "1.5 l" and "15 l", "C" and "C#"."""
    merge_model: str = "all-MiniLM-L6-v2"
    """Sentence-BERT of these embeddings, as in evaluate.sentence_model; another one needs another cosine."""
    duplicate_similarity: float | None = Field(default=None, gt=0, le=1)
    """Cosine of CLIP vectors from which discovery images are one photo, scaled or compressed anew: the model is asked
    about one of them, its answer is that of all. Images are embedded first then. null: it is asked about each."""
    seed: int = Field(default=0, ge=0)
    """Of sampled answers."""
    workers: Workers = Workers(rows_per_part=256)

    @property
    def merges_by_meaning(self) -> bool:
        """Whether text embeddings are asked which names are one: `merge_model` is needed then."""
        return self.merge_similarity is not None and self.merge_similarity < 1

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples = {self.samples} needs a temperature above 0: at 0 all answers about an image are the same; "
                "set label.temperature, e.g. 0.7"
            )
        return self


class Embed(Part):
    """embed: CLIP image vectors of all samples."""

    splits: tuple[str, ...] | None = None
    """Only these splits; null: all."""
    images: Literal["all", "needed"] = "all"
    """Of these splits: `all`, or `needed`, those that are named, that the student learns from or that are evaluated on:
    all that the job itself reads. Searching among all photos needs the others, too."""
    batch_images: int = Field(default=64, ge=1)
    """Images in a forward pass."""
    vectors: Vectors = ClipVectors()
    """Where the vectors come from."""
    workers: Workers = Workers(rows_per_part=4096)


class Candidates(Part):
    """candidates: the labels of an image's nearest neighbours become its candidate set."""

    k: int = Field(default=3, ge=1)
    """Nearest images, the image itself included (paper: 3). `adaptive` chooses it."""
    method: Literal["neighbours", "adaptive", "mllm", "random", "single"] = "neighbours"
    """`neighbours`: all their names; `adaptive`: the likely ones of up to 11 images, weighted by what each vote is
    worth, as estimated without truth; `mllm`: the image's own names (`label.listed`, the paper's MLLM-CS, or
    `label.samples`); `random`: its own label and k - 1 others of the label space (the paper's Random-CS); `single`:
    only its own."""
    weights: Literal["uniform", "multiplicity", "similarity"] = "uniform"
    """Initial weights of `neighbours` and `mllm`: the paper's uniform ones, by how many images (or answers) say so, or
    by the neighbours' cosine similarity."""
    seed: int = Field(default=0, ge=0)
    """Of the random sets."""


class Near(Part):
    """near: prompt learning on candidate sets, CoOp with PRODEN."""

    loss: Literal["proden", "ce", "cc", "rc", "gce", "lws", "cavl"] = "proden"
    """Partial-label loss; `gce` best bears sets without the truth; `ce`: cross entropy on the MLLM's own label, the
    lower baseline."""
    context_length: int = Field(default=16, ge=1, le=64)
    """Learned context tokens."""
    context_init: Phrase | None = None
    """Phrase whose token embeddings start the context, e.g. "a photo of a"; null: N(0, 0.02)."""
    class_specific: bool = False
    """A context of its own for every name, instead of a shared one."""
    name_position: Literal["end", "middle", "front"] = "end"
    """Where the name stands; at the end the context is a prefix that all names share, which is much quicker."""
    epochs: int = Field(default=100, ge=1)
    """Passes over the discovery set."""
    batch_size: int = Field(default=32, ge=1)
    """Images a step; one pass of all names through the text tower serves the whole batch."""
    lr: float = Field(default=0.002, gt=0)
    """Learning rate of SGD at its peak."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Of SGD."""
    warmup_epochs: int = Field(default=1, ge=0)
    """Epochs at a rate of 1e-5 before the cosine schedule."""
    frozen_epochs: int = Field(default=0, ge=0)
    """Epochs before candidate weights are updated; a prompt that starts badly can lock in wrong candidates."""
    views: int = Field(default=1, ge=1)
    """Cached augmented views of an image; 1: the plain embedding only."""
    text_chunk: int = Field(default=256, ge=1)
    """Names in the text tower at once; bounds memory at any size of the label space."""
    validation_share: float = Field(default=0, ge=0, lt=1)
    """Share of the images held out to choose the best epoch by their candidate sets; 0: the last epoch is taken."""
    checkpoint_steps: int = Field(default=500, ge=1)
    """Steps between checkpoints: what is lost at most when a worker dies."""
    gce_q: float = Field(default=0.7, gt=0, le=1)
    """q of the generalised cross entropy; 1: mean absolute error."""
    lws_beta: float = Field(default=1, ge=0)
    """How much LWS cares for the labels outside the set (paper: 1 or 2)."""
    own_weight: float = Field(default=0, ge=0, lt=1)
    """Weight that the MLLM's own label keeps in every update (proden, rc, lws, cavl), since sets of neighbours can miss
    the truth."""
    seed: int = Field(default=0, ge=0)
    """Of context, order and views."""
    workers: TrainWorkers = TrainWorkers()
