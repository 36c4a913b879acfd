"""The whole config tree, and the parts that say where a run happens and what comes out."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fgvr.config.base import Part, Workers
from fgvr.config.baselines import Baselines
from fgvr.config.data import Ingest
from fgvr.config.detect import Detect
from fgvr.config.makd import Aspects, ClassScores, Makd, Questions
from fgvr.config.models import Clip, Mllm, VllmBackend
from fgvr.config.near import Candidates, Embed, Label, Near
from fgvr.config.neighbours import NeighbourSearch


class Run(Part):
    """A run: one folder with everything that belongs to it."""

    name: str = Field(default="demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run and of its folder."""
    folder: str = "runs"
    """Where run folders are: a local path or an URL such as s3://bucket/runs (must be shared by all nodes)."""
    max_error_share: float = Field(default=0.01, ge=0, le=1)
    """A stage stops when more than this share of its rows has failed (of few rows: more than a tenth, at most five)."""
    retry_failed: bool = False
    """Finished stages try their failed rows once more."""
    take_over: bool = False
    """Take the run over from a session that works on it: that one stops by itself. Not saved in config.yaml."""


class Limits(Part):
    """Longest waits. Each ends with a message that says what was waited for; work that gets on may take days."""

    start_minutes: float = Field(default=60, gt=0)
    """For a worker to load its model: then it is ended and another one started. A stage stops when three died so and
    none came up, however large its pool may grow; where `min_workers` begin together, that many and two."""
    silent_minutes: float = Field(default=30, gt=0)
    """In which a worker finishes nothing, no image, step or batch: then it is ended and its work given to another."""
    place_minutes: float = Field(default=120, gt=0)
    """Without any sign of life, as where no node has room for a worker: then the run stops."""


class Cluster(Part):
    """The Ray session."""

    address: str | None = None
    """`auto` or host:port of a running cluster; null: inside a Ray job that cluster, else one on this machine."""
    num_cpus: int | None = Field(default=None, ge=1)
    """Cores that a session on this machine may use; null: all."""
    num_gpus: int | None = Field(default=None, ge=0)
    """GPUs that a session on this machine may use; null: all."""
    object_store_gb: float | None = Field(default=0.5, gt=0)
    """Object store of a session on this machine, GiB (only names and numbers go through it); null: Ray's default."""
    loopback: bool = True
    """A session on this machine listens on 127.0.0.1 alone; false: others reach its ports, too, with its token."""
    metrics_port: int | None = Field(default=None, ge=1024, le=65535)
    """Port of the Prometheus endpoint of a session on this machine; null: a free one."""
    worker_logs: bool = False
    """Show what workers write on the console, too; it is always in Ray's own log folder."""
    limits: Limits = Limits()


class Tracking(Part):
    """MLflow."""

    uri: str | None = None
    """Tracking server or store; null: MLFLOW_TRACKING_URI, else SQLite in the run folder."""
    experiment: str = "fgvr"
    """Experiment that the runs belong to."""
    log_models: bool = True
    """Log NeaR and the student as pyfunc models."""


Method = Literal["mllm", "zs_clip", "zs_wordnet", "cased", "prototypes", "finer", "findr", "near", "base", "makd"]


class Evaluate(Part):
    """evaluate: how good each method is on the evaluation images, and what it cost."""

    split: str = "test"
    """Images that are evaluated on; never trained on."""
    max_images: int | None = Field(default=None, ge=1)
    """So many at random; null: all."""
    methods: tuple[Method, ...] = ("mllm", "zs_clip", "near", "base", "makd")
    """Methods compared; `mllm` asks the large model about every evaluation image. docs/methods.md describes all."""
    sentence_model: str = "all-MiniLM-L6-v2"
    """Sentence-BERT of sACC: the bundled all-MiniLM-L6-v2, a hub name, or a folder. Scores of two do not compare."""
    prices: str | None = None
    """YAML file with the prices of tokens and machine hours, or `shipped`, those that come with this version; null: US$
    are unknown in the report, and estimates before the start are by the shipped ones."""
    hyphen_to_space: bool = False
    """sIoU: `Black-footed` as two words, instead of the public code's `blackfooted`."""
    bootstrap: int = Field(default=1000, ge=0)
    """Resamples behind the 95% confidence intervals; 0: none."""
    report_images: int = Field(default=24, ge=0)
    """Example images in the report."""
    seed: int = Field(default=0, ge=0)
    """Of samples and resamples."""


class Infer(Part):
    """infer: a trained model classifies samples."""

    model: str | None = None
    """Folder of a trained model; null: this run's student (with aspects)."""
    split: str | None = None
    """Only this split; null: all samples."""
    abstain_below: float = Field(default=0, ge=0, le=1)
    """Predictions with a lower score are marked as abstained."""
    batch_images: int = Field(default=64, ge=1)
    """Images in a forward pass."""
    workers: Workers = Workers(rows_per_part=4096)


class Config(Part):
    """Everything that decides what a run computes and where."""

    run: Run = Run()
    cluster: Cluster = Cluster()
    tracking: Tracking = Tracking()
    ingest: Ingest = Ingest()
    mllm: Mllm = VllmBackend()
    """The multimodal LLM of label, aspects and class_scores: `kind: vllm` or `kind: openai` (or, for measurements
    without a model, `kind: simulated`)."""
    clip: Clip = Clip()
    label: Label = Label()
    embed: Embed = Embed()
    neighbours: NeighbourSearch = NeighbourSearch()
    candidates: Candidates = Candidates()
    near: Near = Near()
    questions: Questions = Questions()
    aspects: Aspects = Aspects()
    class_scores: ClassScores = ClassScores()
    makd: Makd = Makd()
    baselines: Baselines = Baselines()
    evaluate: Evaluate = Evaluate()
    infer: Infer = Infer()
    detect: Detect = Detect()

    def mllms(self) -> list[tuple[str, Mllm]]:
        """Every MLLM of the config, with the name of its field."""
        asked = {
            "mllm": self.mllm,
            "questions.llm": self.questions.llm,
            "baselines.finer.llm": self.baselines.finer.llm,
        }
        return [(name, model) for name, model in asked.items() if model is not None]

    @model_validator(mode="after")
    def _duplicates_share_answers(self) -> Self:
        if self.label.duplicate_similarity is None:
            return self
        split, embedded = self.label.images.drawn_from, self.embed.splits
        if embedded is not None and split not in embedded:
            raise ValueError(
                f"label.duplicate_similarity: near-duplicates are found by vectors, and embed.splits leaves out "
                f"{split}, from which the images to label are drawn (label.images.split); add it there"
            )
        if self.aspects.with_labels:
            raise ValueError(
                "label.duplicate_similarity: with aspects.with_labels each image is asked for its label with its "
                "questions, so that no answer can be shared; leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _waits_end_before_they_are_hangs(self) -> Self:
        # Defaults are left alone: a config that was saved has them, and readers wait no longer than is allowed.
        silent = self.cluster.limits.silent_minutes
        waits: list[tuple[str, Part, str]] = [("ingest.limits.web", self.ingest.limits.web, "total_seconds")]
        waits += [(name, model, wait) for name, model in self.mllms() if (wait := model.wait_field) is not None]
        for place, part, field in waits:
            seconds = getattr(part, field)
            if seconds >= 60 * silent and seconds != type(part).model_fields[field].default:
                raise ValueError(
                    f"{place}.{field} = {seconds:g}: one such wait is as long as the silence after which a worker is "
                    f"ended, cluster.limits.silent_minutes = {silent:g}; lower the one (below {60 * silent:g}), or "
                    "raise the other"
                )
        return self

    @model_validator(mode="after")
    def _models_can_be_asked(self) -> Self:
        for name, model in self.mllms():
            try:
                model.check()
            except ValueError as error:
                raise ValueError(f"{name}.{error}") from None
        return self
