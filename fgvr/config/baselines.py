"""The methods that are compared with NeaR and have settings of their own."""

from __future__ import annotations

from pydantic import Field

from fgvr.config.base import Part
from fgvr.config.models import Mllm
from fgvr.config.texts import NameTemplate, SubjectPrompt

FINDR_PROMPT = (
    "You are a professional {expert} and can tell any {unit} of {category} from all others. Which {category} {unit} is"
    " shown in this image? Answer with its full name and nothing else."
)


class WordNet(Part):
    """`zs_wordnet`: CLIP picks among all nouns of WordNet."""

    path: str = "/usr/share/wordnet/index.noun"
    """WordNet's index.noun, as Debian's package wordnet-base installs it."""


class Cased(Part):
    """`cased`: names from the captions nearest to an image."""

    captions: str | None = None
    """Caption database: .csv or .parquet with the column `column`, or .txt with one caption per line; null: the field
    guide's own."""
    column: str = "caption"
    """Column with the captions."""
    retrieved: int = Field(default=10, ge=1)
    """Captions retrieved per image (public code: 10)."""
    image_weight: float = Field(default=0.7, ge=0, le=1)
    """Weight of the image against the centroid of its captions (public code: 0.7)."""


class Prototypes(Part):
    """The text and image classifier of `prototypes`, `finer` and `findr`."""

    text_weight: float = Field(default=0.7, ge=0, le=1)
    """Weight of a name's text against the mean of the views of the images that voted for it (FineR, FiNDR: 0.7)."""
    views: int = Field(default=10, ge=0)
    """Augmented views of each discovery image besides the plain one (FineR, FiNDR: 10)."""
    min_crop: float = Field(default=0.5, gt=0, le=1)
    """Smallest share of the image's area that a view shows (FineR: 0.5)."""
    template: NameTemplate = "{}"
    """Prompt of a name (FineR, FiNDR: the bare name)."""
    seed: int = Field(default=0, ge=0)
    """Random seed of the views."""


class Finer(Part):
    """`finer`: a language model names what the MLLM's answers to the aspect questions describe."""

    llm: Mllm | None = None
    """Language model that proposes names; null: `questions.llm`."""
    names: int = Field(default=3, ge=1)
    """Names requested per image (FineR: 3)."""
    max_tokens: int = Field(default=128, ge=1)
    """Longest reply, in tokens."""
    temperature: float = Field(default=0.9, ge=0)
    """Sampling temperature of the replies (FineR: 0.9)."""
    seed: int = Field(default=0, ge=0)
    """Random seed of the replies."""


class Findr(Part):
    """`findr`: the prompt says what kind of thing the image shows and which expert is speaking."""

    category: str | None = None
    """What the images show, in the singular ("bird"); null: the MLLM is asked, over a few images."""
    unit: str | None = None
    """What the kinds of it are called ("species", "breed", "model"); null: the MLLM is asked."""
    expert: str | None = None
    """Who can tell them apart ("ornithologist"); null: the MLLM is asked."""
    images: int = Field(default=3, ge=1)
    """Images, side by side in one, about which the MLLM is asked these (FiNDR: 3)."""
    prompt: SubjectPrompt = FINDR_PROMPT
    """What is asked about each discovery image; {category}, {unit} and {expert} are filled in."""


class Baselines(Part):
    """baselines: methods of `evaluate.methods` besides NeaR, the students, the MLLM, and zero-shot CLIP with the MLLM's
    names.
    """

    wordnet: WordNet = WordNet()
    cased: Cased = Cased()
    prototypes: Prototypes = Prototypes()
    finer: Finer = Finer()
    findr: Findr = Findr()
