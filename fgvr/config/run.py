"""The whole config tree, and the parts that say where a run happens and what comes out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fgvr.config.adapt import Adapt
from fgvr.config.augment import Augment
from fgvr.config.base import Part, Workers
from fgvr.config.baselines import Baselines
from fgvr.config.cascade import Promised
from fgvr.config.check import Check
from fgvr.config.compare import Compare
from fgvr.config.data import Ingest
from fgvr.config.detect import Detect
from fgvr.config.distill import Distill
from fgvr.config.drift import Drift
from fgvr.config.heads import Heads
from fgvr.config.hierarchy import Hierarchy
from fgvr.config.label_sources import AskedModel, with_the_rest
from fgvr.config.makd import Aspects, ClassScores, Makd, Questions
from fgvr.config.model_names import DEMO_MODEL
from fgvr.config.models import Clip, Mllm, VllmBackend
from fgvr.config.near import Candidates, Embed, Label, Near
from fgvr.config.neighbours import NeighbourSearch
from fgvr.config.signatures import Signatures
from fgvr.config.slices import SliceTests
from fgvr.config.tree import Basic, Tuned, given_tree, merge, whole_tree


class Budget(Part):
    """What a run may spend over all its sessions.

    It stops between two parts, with exit status 3, before it would spend more, and goes on by the same command once the
    budget is raised (docs/scaling.md).
    """

    usd: float | None = Field(default=None, gt=0)
    """US$ for tokens of servers and for hours of machines, by `evaluate.prices`, which has to be set; null: no
    limit."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens of prompts, images included, and answers, of all models that the run asks; null: no limit."""

    @property
    def is_open(self) -> bool:
        """Whether nothing is limited."""
        return self.usd is None and self.tokens is None

    def in_words(self) -> str:
        """The limits in words."""
        money = [] if self.usd is None else [f"US$ {self.usd:,g}"]
        return " and ".join([*money, *([] if self.tokens is None else [f"{self.tokens:,} tokens"])])


class Run(Part):
    """run: one folder with everything that belongs to it."""

    name: Basic[str] = Field(default="demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run and of its folder, a new one for a fresh start: letters, digits, dots, dashes and underscores."""
    folder: Basic[str] = "runs"
    """Where run folders are created: a local path or a URL such as s3://bucket/runs; all nodes of a cluster must share
    it."""
    max_error_share: float = Field(default=0.01, ge=0, le=1)
    """Largest share of failed rows in a stage; beyond it the stage stops. Of few rows up to a tenth, five at most, may
    fail in any case. 0: no row may fail. Raise it where many photos are known to be damaged."""
    retry_failed: bool = False
    """Compute the failed rows of finished stages again, after their cause was mended (a network, a limit, a model)."""
    increment: Literal["ignore", "recompute", "keep"] = "ignore"
    """Photos that were added to the source since it was listed: `ignore` leaves them out, so that a long run is not
    disturbed; `recompute` adds them, computes answers and vectors of the new ones only, and trains all models anew;
    `keep` adds them, leaves names, models and scores as they are, and predicts only the new ones."""
    budget: Basic[Budget] = Budget()
    """What the run may spend; without limits nothing stops it."""
    take_over: bool = False
    """Take the run over from another session that is working on it, which then stops. Not saved in config.yaml."""


class Limits(Part):
    """Longest waits. Each ends with a message that says what was waited for; work that makes progress may take days."""

    start_minutes: float = Field(default=60, gt=0)
    """Minutes that a worker may take to load its model before it is ended and another one is started. A stage stops
    after three such failures if no worker came up, or, where `min_workers` start together, after that many and two
    more."""
    silent_minutes: float = Field(default=30, gt=0)
    """Minutes in which a worker may finish nothing (no image, step or batch) before it is ended and its work given to
    another one. Raise it for models that take longer per batch."""
    place_minutes: float = Field(default=120, gt=0)
    """Minutes without a heartbeat of any worker, e.g. because no node has room for one, before the run stops. Raise
    it on clusters that scale up slowly."""


class Cluster(Part):
    """cluster: the Ray session."""

    address: Basic[str | None] = None
    """Ray cluster to use: `auto` or host:port of a running one; null: the job's own cluster inside a Ray job, else a
    session started on this machine."""
    num_cpus: int | None = Field(default=None, ge=1)
    """CPU cores that a session on this machine may use; null: all. Lower it to leave some to other work."""
    num_gpus: int | None = Field(default=None, ge=0)
    """GPUs that a session on this machine may use; null: all."""
    object_store_gb: float | None = Field(default=0.5, gt=0)
    """Object store of a session on this machine, in GiB (only names and numbers go through it); null: Ray's default."""
    loopback: bool = True
    """A session on this machine listens on 127.0.0.1 only; false: other machines can reach its ports, too, with its
    token."""
    metrics_port: int | None = Field(default=None, ge=1024, le=65535)
    """Port of the Prometheus endpoint of a session on this machine; null: any free one."""
    worker_logs: bool = False
    """Also show on the console what workers write; Ray's log folder always has it."""
    limits: Limits = Limits()


class Tracking(Part):
    """tracking: where MLflow records the run."""

    uri: str | None = None
    """MLflow tracking server or store; null: MLFLOW_TRACKING_URI, else SQLite in the run folder."""
    experiment: str = "fgvr"
    """MLflow experiment that the runs belong to."""
    log_models: bool = True
    """Log NeaR and the students as MLflow pyfunc models."""


Method = Literal[
    "mllm",
    "zs_clip",
    "zs_wordnet",
    "cased",
    "prototypes",
    "finer",
    "findr",
    "near",
    "label_prototypes",
    "heads",
    "base",
    "makd",
]


class Evaluate(Part):
    """evaluate: how good each method is on the evaluation images, and what it costs."""

    split: str = "test"
    """Split to evaluate on; it is never trained on."""
    max_images: Basic[int | None] = Field(default=None, ge=1)
    """Number of evaluation images, drawn at random (null: the whole split); the method `mllm` asks about each of
    them."""
    methods: Tuned[tuple[Method, ...]] = ("mllm", "zs_clip", "near", "base", "makd")
    """Methods to compare; `mllm` asks the large model about every evaluation image. docs/methods.md describes all."""
    sentence_model: str = "all-MiniLM-L6-v2"
    """Sentence-BERT model of sACC: the bundled all-MiniLM-L6-v2, a hub name, or a folder. Scores of different models
    cannot be compared."""
    prices: Tuned[str | None] = None
    """YAML file with prices of tokens and machine hours; null or `shipped`: those that come with this version, whose
    date and source the report names. A budget in US$ asks for one of the two."""
    hyphen_to_space: bool = False
    """sIoU: count `Black-footed` as two words, where the public code has `blackfooted`."""
    bootstrap: int = Field(default=1000, ge=0)
    """Number of resamples for the 95% confidence intervals; 0: no intervals."""
    leaks: Literal["ignore", "report", "leave_out"] = "ignore"
    """What becomes of evaluation images that are near-duplicates of a photo in another split: with `report` the report
    says how many there are, with `leave_out` they are not evaluated. Both check all photos (docs/checks.md)."""
    report_images: int = Field(default=24, ge=0)
    """Number of example images in the report."""
    report_issues: Tuned[int] = Field(default=0, ge=0)
    """Number of labels that are most probably wrong in the report, with pictures and other names; above 0 the stage
    issues is computed (docs/label-issues.md)."""
    slice_by: Tuned[tuple[str | tuple[str, str], ...]] = ()
    """Columns, and pairs of columns, by whose values each method's accuracy is shown, the worst first: of
    ingest.source.metadata_columns, `class_name` (the true class) or `folder` (docs/slices.md)."""
    slices: SliceTests = SliceTests()
    seed: int = Field(default=0, ge=0)
    """Random seed of the image sample and the resamples."""

    def unused(self) -> Iterator[tuple[str, str]]:
        """See Part: how slices are measured, where there are none."""
        if not self.slice_by and self.slices != SliceTests():
            yield "slices", "evaluate.slice_by names no columns; name some, or leave slices out"


class Infer(Promised):
    """infer: a trained model classifies samples."""

    model: Tuned[str | None] = None
    """Folder of a trained model; null: this run's own, which `trained` names."""
    trained: Literal["makd", "base", "near", "label_prototypes", "heads"] = "makd"
    """Which model of this run classifies where no `model` is given: the student with aspects or without (`base`), NeaR,
    prototypes of the labels, or the trained head. The last two classify photos with a stored vector by it, and read
    the others."""
    split: Tuned[str | None] = None
    """Split to classify; null: all samples."""
    abstain_below: float = Field(default=0, ge=0, le=1)
    """Predictions with a lower score are marked as abstained. Raise it for fewer, surer labels."""
    costs: str | None = None
    """CSV with columns `true,predicted,cost` (names, groups or `*`): the label then is the one with the least expected
    cost, and `abstain` as a predicted name is the price of saying nothing (docs/heads.md). null: the most probable
    name."""
    cost_groups: str | None = None
    """CSV with columns `name,group` for the groups in `costs`."""
    batch_images: int = Field(default=64, ge=1)
    """Most images per forward pass. On a CPU fewer go through at once (6 of 224 × 224 pixels). Lower it when memory
    runs out; it changes results by rounding only."""
    drift: Drift = Drift()
    workers: Workers = Workers(rows_per_part=4096)

    def unused(self) -> Iterator[tuple[str, str]]:
        """See Part: a model of this run beside another one; and what decides, where nothing is promised."""
        yield from super().unused()
        own = type(self).model_fields["trained"].default
        if self.model is not None and self.trained != own:
            yield (
                "trained",
                f"model = {self.model} classifies, and no model of this run; leave trained out (or set it to {own}), "
                "or set model to null",
            )


class Config(Part):
    """Everything that decides what a run computes and where."""

    run: Basic[Run] = Run()
    cluster: Basic[Cluster] = Cluster()
    tracking: Tracking = Tracking()
    ingest: Basic[Ingest] = Ingest()
    check: Check = Check()
    mllm: Basic[Mllm] = VllmBackend()
    """mllm: the multimodal LLM that label, aspects and class_scores ask. `vllm` loads it in the workers, `openai` asks
    a server, `simulated` asks no model and is for measurements."""
    clip: Basic[Clip] = Clip()
    label: Label = Label()
    embed: Embed = Embed()
    neighbours: NeighbourSearch = NeighbourSearch()
    candidates: Candidates = Candidates()
    near: Near = Near()
    heads: Heads = Heads()
    questions: Questions = Questions()
    aspects: Aspects = Aspects()
    class_scores: ClassScores = ClassScores()
    signatures: Signatures = Signatures()
    augment: Augment = Augment()
    makd: Makd = Makd()
    compare: Compare = Compare()
    distill: Distill = Distill()
    adapt: Adapt = Adapt()
    baselines: Baselines = Baselines()
    evaluate: Evaluate = Evaluate()
    infer: Infer = Infer()
    detect: Detect = Detect()
    hierarchy: Hierarchy = Hierarchy()

    def mllms(self) -> list[tuple[str, Mllm]]:
        """Every MLLM of the config, with the name of its field."""
        asked = {
            "mllm": self.mllm,
            "questions.llm": self.questions.llm,
            "signatures.llm": self.signatures.llm,
            "hierarchy.llm": self.hierarchy.llm,
            "baselines.finer.llm": self.baselines.finer.llm,
            **{
                f"label.sources.{number}.mllm": source.mllm
                for number, source in enumerate(self.label.sources)
                if isinstance(source, AskedModel)
            },
        }
        return [(name, model) for name, model in asked.items() if model is not None]

    @model_validator(mode="before")
    @classmethod
    def _sources_keep_the_rest(cls, values: Any) -> Any:
        """What a source of labels leaves out of its model and its workers is as in `mllm` and `label.workers`."""
        label = values.get("label") if isinstance(values, dict) else None
        if not isinstance(label, dict) or not isinstance(label.get("sources"), list | tuple):
            return values
        lowest = {"kind": VllmBackend().kind, "model": DEMO_MODEL}
        given = [whole_tree(part.get(name, {})) for part, name in ((values, "mllm"), (label, "workers"))]
        if not all(isinstance(tree, dict) for tree in given):
            return values  # which is refused
        mllm, workers = merge(lowest, given[0]), merge(given_tree(Label().workers), given[1])
        return {
            **values,
            "label": {**label, "sources": [with_the_rest(each, mllm, workers) for each in label["sources"]]},
        }

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
    def _chosen_images_have_vectors(self) -> Self:
        images, embedded = self.label.images, self.embed.splits
        if images.chosen and embedded is not None and images.drawn_from not in embedded:
            raise ValueError(
                f"label.images.select = {images.select}: images are chosen by their vectors; add {images.drawn_from}, "
                "the split of label.images, to embed.splits"
            )
        if self.label.rounds > 1 and self.aspects.with_labels:
            raise ValueError(
                "label.rounds: with aspects.with_labels each image is asked for its label with its questions, in one "
                "pass; leave one of the two out"
            )
        if self.label.rounds > 1 and self.label.sources:
            raise ValueError(
                "label.rounds: two rounds ask mllm, as the fields of label say; leave label.sources or the rounds out"
            )
        return self

    @model_validator(mode="after")
    def _one_pass_has_one_prompt(self) -> Self:
        if self.aspects.with_labels and self.label.sources:
            raise ValueError(
                "label.sources: with aspects.with_labels each image is asked for its label with its questions, as the "
                "fields of label say; leave one of the two out"
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
            unnamed = getattr(model, "model", None) == DEMO_MODEL and "model" not in model.model_fields_set
            if unnamed and name != "mllm":
                raise ValueError(
                    f"{name}.model: required; without it the tiny model of the demo would answer. Give a folder, a hub "
                    f"name, or {DEMO_MODEL} if it is meant"
                )
            try:
                model.check()
            except ValueError as error:
                raise ValueError(f"{name}.{error}") from None
        return self
