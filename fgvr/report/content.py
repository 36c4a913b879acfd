"""What report.html shows besides the numbers of metrics.json."""

from __future__ import annotations

from dataclasses import dataclass, field

from fgvr.report.aspect_pictures import AspectPictures
from fgvr.report.results import Results


@dataclass(frozen=True)
class Candidate:
    """A candidate label of an image with its weight before and after training (each sums to 1 over the set)."""

    name: str
    before: float
    after: float | None


@dataclass(frozen=True)
class Prediction:
    """What a method says about an image; `score` is a softmax probability, None where the method has none."""

    method: str
    name: str
    score: float | None = None


@dataclass(frozen=True)
class ImageCard:
    """A discovery image with all that happened to it.

    Attributes:
        title: its file name.
        thumbnail: a data: URI, or "" where the image could not be read.
        problem: why it could not, else "".
        answer: the MLLM's answer as it gave it.
        label: the name that it became; "" where none was left.
        true_name: "" where unknown.
        candidates: heaviest first.
        predictions: one a method.
    """

    title: str
    thumbnail: str
    problem: str
    answer: str
    label: str
    true_name: str
    candidates: list[Candidate] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)


@dataclass(frozen=True)
class ReportContent:
    """Everything on the page.

    Attributes:
        results: as in metrics.json.
        facts: (what, value) pairs for the head of the page: models, data, settings.
        images: example images.
        created: date and time, as text.
        aspects: drawings of the aspects.
    """

    results: Results
    facts: list[tuple[str, str]]
    images: list[ImageCard]
    created: str
    aspects: AspectPictures = field(default_factory=AspectPictures)
