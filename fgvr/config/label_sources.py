"""Where labels come from: models that are asked, and answers that are there already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from fgvr.config.base import Part, Workers
from fgvr.config.models import Mllm
from fgvr.config.texts import ListPrompt, Prompt

SOURCE_NAME: Final = r"^[a-z][a-z0-9_]{0,39}$"


class AnswerFile(Part):
    """A file of answers: old labels, product titles, a vendor's batch output. Nothing is asked and nothing is paid."""

    kind: Literal["file"] = "file"
    name: str = Field(default="file", pattern=SOURCE_NAME)
    """Name of the source in tables: lower-case letters, digits and underscores; each source needs its own."""
    path: str
    """The file: .csv, .tsv, .parquet or .jsonl, local or s3://. A .jsonl may be a batch output of OpenAI or Anthropic,
    whose `custom_id` is the photo's URI."""
    uri_column: str = "uri"
    """Column with the photo's URI, as listed or relative to the photo source's folder. Where it is absent, `id_column`
    counts."""
    id_column: str = "image_id"
    """Column with the photo's `image_id` in the samples table, for files without URIs."""
    answer_column: str = "answer"
    """Column with the answer: a name, or what a model said, from which the name is read. In .jsonl it may be a list,
    best first."""
    rank_column: str | None = "rank"
    """Column with the answer's rank (1 is the best) where a photo has several; null, or no column `rank`: none."""
    score_column: str | None = "score"
    """Column with the answer's probability or votes, at least 0, by which a photo's answers weigh; null, or no column
    `score`: all weigh the same."""
    listed: int = Field(default=1, ge=1, le=50)
    """Labels in each answer's text, as in label.listed; ranked answers in rows of their own have one each."""
    answer: Literal["free", "structured"] = "free"
    """Form of each answer's text, as in label.answer: `structured` texts are JSON as asked for there."""


class AskedModel(Part):
    """A model that is asked about each photo: a second prompt, or a second engine. Null fields are those of label, and
    fields left out of `mllm` (of the same kind) and `workers` are those of mllm and label.workers.
    """

    kind: Literal["ask"] = "ask"
    name: str = Field(default="model", pattern=SOURCE_NAME)
    """Name of the source in tables: lower-case letters, digits and underscores; each source needs its own."""
    mllm: Mllm | None = None
    """The model, as in mllm; null: `mllm`."""
    prompt: Prompt | None = None
    """As in label.prompt."""
    samples: int | None = Field(default=None, ge=1, le=100)
    """As in label.samples."""
    listed: int | None = Field(default=None, ge=1, le=50)
    """As in label.listed."""
    listed_prompt: ListPrompt | None = None
    """As in label.listed_prompt."""
    answer: Literal["free", "structured"] | None = None
    """As in label.answer."""
    max_tokens: int | None = Field(default=None, ge=1)
    """As in label.max_tokens."""
    temperature: float | None = Field(default=None, ge=0)
    """As in label.temperature."""
    seed: int | None = Field(default=None, ge=0)
    """As in label.seed."""
    workers: Workers | None = None
    """Workers that ask it; null: label.workers."""

    def overrides(self) -> dict[str, Any]:
        """The fields of label that this source sets otherwise."""
        return {name: value for name in _OF_LABEL if (value := getattr(self, name)) is not None}


_OF_ANOTHER: Final = {"model": ("revision", "engine_args"), "base_url": ("api_key_env",)}
"""What a source takes over from `mllm` only for the same model, or the same server: no other one gets its key."""


def with_the_rest(source: Any, mllm: Mapping[str, Any], workers: Mapping[str, Any]) -> Any:
    """A source's tree in which `mllm` and `workers` have what they leave out from the parts of the same name."""
    if not isinstance(source, dict):
        return source
    filled = dict(source)
    if isinstance(own := source.get("mllm"), dict):
        filled["mllm"] = _of_mllm(own, mllm)
    if isinstance(own := source.get("workers"), dict):
        filled["workers"] = {**workers, **own}
    return filled


def _of_mllm(own: Mapping[str, Any], mllm: Mapping[str, Any]) -> dict[str, Any]:
    """A source's model, where it is of the same kind with the fields of `mllm` that hold for it, too."""
    others = [key for key in ("kind", *_OF_ANOTHER) if key in own and own[key] != mllm.get(key)]
    if "kind" in others:
        return dict(own)
    left_out = {name for key in others for name in _OF_ANOTHER[key]}
    return {**{name: value for name, value in mllm.items() if name not in left_out}, **own}


_OF_LABEL: Final = (
    *("prompt", "samples", "listed", "listed_prompt", "answer", "max_tokens", "temperature", "seed", "workers"),
)

LabelSource = Annotated[AnswerFile | AskedModel, Field(discriminator="kind")]
