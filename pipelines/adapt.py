"""adapt: the multimodal LLM learns from photos with trusted names (experimental). In: labels, issues. Out: adaptation.

    python pipelines/adapt.py --config my.yaml --label.checked checked.csv
    python pipelines/label.py --config my.yaml --mllm.adapter runs/mine/tables/adaptation/<fingerprint>/adapter

Trusted are names that a person has checked (`label.checked`), and those on which all answers and the neighbours agree
(`adapt.trust`). Some of these photos are learned from, by GRPO with LoRA; the others judge: the model is asked about
them before and after. One row per photo of both kinds. Beside the table: `adapter/`, which `mllm.adapter` takes where
it is better beyond chance (exact McNemar test), `history.json`, and `trust.json`, which counts the photos by why they
are trusted or not. Needs the extra `adapt`. Not part of full.py. See docs/adapt.md.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from fgvr.arrays import NONE
from fgvr.config import Config, ConfigError
from pipelines.asks import Work
from pipelines.beliefs import own_names
from pipelines.checked import checked_names
from pipelines.command import stage_main
from pipelines.duplicates import photos_of
from pipelines.issues import NOTHING_NEAR
from pipelines.label import ALIASES_FILE
from pipelines.run_tables import Run, per_run
from pipelines.stage import Stage

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.stage import StageFolder, StageSummary
    from fgvr.adapt.job import Adapted, AdaptJob, Named
    from fgvr.adapt.training import Recipe
    from fgvr.adapt.trusted import Flags, Split
    from fgvr.arrays import Ids, Labels
    from fgvr.config import VllmBackend

log = logging.getLogger(__name__)

ADAPTER_FOLDER: Final = "adapter"
TRUST_FILE: Final = "trust.json"
LEARN, JUDGE = "learn", "judge"
COLLAPSED: Final = 0.1
"""Loss in the share of right answers from which a remark is made."""
SURE: Final = 0.98
"""Share of right answers before the training from which a remark is made: there is hardly anything to gain."""


@dataclass(frozen=True)
class Trusted:
    """The discovery images whose names are trusted, and how many of all are or are not, by why."""

    ids: Ids
    names: Labels
    why: Any
    groups: Ids
    counts: dict[str, int]


class Adaptation(Stage):
    """An adapter of the MLLM, and what it answers about photos that it never saw, before and after."""

    table = "adaptation"
    phase = None
    one_call = True

    def wanted(self, config: Config) -> bool:
        """No whole job needs it."""
        return False

    def check(self, config: Config) -> None:
        """Refuse a model that cannot be adapted, questions whose answers are no single name, and a missing extra.

        Raises:
            AdapterError: TRL or PEFT is not installed.
            ConfigError: a field says otherwise.
            ModelError: there is no such model.
        """
        from fgvr.adapt.training import check_installed
        from fgvr.mllm.backends import backend_identity

        check_installed()
        _model(config)
        backend_identity(config.mllm)
        label = config.label
        if label.listed > 1 or label.answer != "free":
            raise ConfigError(
                "adapt: the reward compares one name, said in free text; set label.listed to 1 and label.answer to free"
            )
        if label.images.drawn_from == config.evaluate.split:
            raise ConfigError(
                f"label.images.split = {label.images.drawn_from}: that is evaluate.split, from which nothing may be "
                "learned"
            )
        if config.adapt.trust == "checked" and label.checked is None:
            raise ConfigError(
                "adapt.trust = checked: nobody has checked a label; give a CSV with the columns uri and right_name "
                "(label.checked), or set adapt.trust to agreed"
            )

    def workers(self, config: Config) -> str | None:
        """One worker."""
        return "adapt.workers"

    def reads(self, run: Run) -> Iterable[str]:
        """The photos and their names; for names that nobody has checked also what speaks against them."""
        yield from ("samples", "labels")
        if run.config.adapt.trust == "agreed":
            yield from ("embeddings", "issues")
            if len(run.config.label.sources) > 1:
                yield "votes"

    def works(self, run: Run) -> Work:
        """The sampled answers of all steps, and two about each judging photo."""
        adapt = run.config.adapt
        learned = min(adapt.steps * adapt.photos * adapt.answers, adapt.max_images * adapt.answers)
        return Work(learned + 2 * adapt.max_judged)

    def recipe(self, run: Run) -> dict[str, Any]:
        """The model, what it is asked, how it is trained and judged, and the rules of trust."""
        from fgvr.adapt.trusted import RULES
        from fgvr.mllm.backends import backend_identity
        from fgvr.names.answers import READER

        config = run.config
        return {
            "rules": RULES,
            "reader": READER,
            "adapt": config.adapt.deciding(),
            "model": backend_identity(config.mllm),
            "prompt": config.label.prompt,
            "max_tokens": config.label.max_tokens,
            "group": _group_column(config),
            "limits": config.ingest.limits,
        }

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Train and judge in one worker; a training that was interrupted goes on from its last checkpoint."""
        from cluster.once import run_once
        from cluster.progress import training_shown
        from cluster.stage_files import Plan, training_name
        from cluster.stage_progress import current
        from fgvr.training.checkpoint import HISTORY_FILE

        adapt, trusted = run.config.adapt, _trusted(run)
        parts = _split(run)
        folder.write_bytes(TRUST_FILE, json.dumps(trusted.counts, indent=1).encode())
        log.info("adaptation: %s", _in_words(trusted, parts))
        name = training_name(folder.attempt)
        epochs = adapt.steps * adapt.photos / len(parts.learned)
        Plan(training=name, epochs=epochs).write(folder.uri)
        job = _job(run, parts, folder, name)
        with training_shown(job.training, self.table, epochs, told=current()):
            adapted: Adapted = run_once(_adapt, job, workers=adapt.workers)
        folder.write_bytes(HISTORY_FILE, json.dumps([asdict(step) for step in adapted.steps], indent=1).encode())
        summary = folder.write_table(_rows(trusted, parts, job, adapted))
        _conclude(summary, folder, trusted, adapted)
        return summary


def _conclude(summary: StageSummary, folder: StageFolder, trusted: Trusted, adapted: Adapted) -> None:
    """Say what came out, with the next command where the adapter is better."""
    import numpy as np

    verdict, steps = adapted.verdict, adapted.steps
    place = folder.path(ADAPTER_FOLDER)
    same = float(np.mean([step.same for step in steps])) if steps else 1.0
    numbers = {"judged": verdict.photos, "gained": verdict.gained, "lost": verdict.lost, "taken": verdict.taken}
    summary.metrics = {name: float(value) for name, value in numbers.items()} | {
        "right_before": verdict.before,
        "right_after": verdict.after,
        "p": verdict.p,
        "same_reward": same,
    }
    summary.extra = {"taken": verdict.taken, "said": verdict.sentence(), "trusted": trusted.counts}
    if verdict.taken:
        log.info("adaptation: %s", verdict.sentence())
        log.info("adaptation: have it name your photos: python pipelines/label.py … --mllm.adapter %s", place)
        return
    remarks = [f"{verdict.sentence()}; mllm.adapter refuses it"]
    if verdict.after < verdict.before - COLLAPSED:
        remarks.append(
            "it has unlearned what the model knew, as happens where the rate is too high; lower adapt.lr, or set "
            "adapt.stages to exploit"
        )
    if verdict.before >= SURE:
        remarks.append(
            f"the model was right on {verdict.before:.0%} of the photos that judge, so there was hardly anything to "
            "gain: names that agree with its own answers teach little; check labels that issues doubts (label.checked)"
        )
    if same > 0.9:
        remarks.append(
            f"of {same:.0%} of the photos all sampled answers got one reward, which teaches nothing; raise "
            "adapt.temperature or adapt.answers, or trust photos on which the model is unsure"
        )
    summary.remarks = tuple(remarks)


def _model(config: Config) -> VllmBackend:
    """The model to adapt; raises ConfigError for one that is not run here, or has an adapter already."""
    from fgvr.mllm.backends import with_weights

    model = with_weights(config.mllm)
    if model is None:
        raise ConfigError(
            f"mllm.kind = {config.mllm.kind}: an adapter changes the weights of a model that runs here; set it to vllm"
        )
    if model.adapter is not None:
        raise ConfigError(
            "mllm.adapter: an adapter is trained for the model itself, and none can be put on top of another; leave it "
            "out here"
        )
    return model


def _group_column(config: Config) -> str | None:
    column: str | None = getattr(config.ingest.source, "group_column", None)
    return column


@per_run
def _trusted(run: Run) -> Trusted:
    """The images whose names are trusted: checked, or agreed on and not doubted."""
    import numpy as np

    from fgvr.adapt.trusted import TRUSTED, joined_groups, reasons

    labels = run.table("labels")
    ids, names = own_names(labels)
    checked = checked_names(labels, ids, names.first) != NONE
    several, doubts = np.zeros(len(ids), bool), (np.zeros(len(ids), bool), np.zeros(len(ids), bool))
    keys = [_of_column(run, ids), _of_copies(labels, ids)]
    if run.config.adapt.trust == "agreed":
        several = _differ(run, ids, names)
        doubts = _doubts(run, ids)
        keys.append(_of_vectors(run, ids))
    why = reasons(names.first, checked=checked, differ=several, judged=doubts[0], doubted=doubts[1])
    trusted = np.isin(why, TRUSTED)
    groups = joined_groups(*keys)
    found, counts = np.unique(why, return_counts=True)
    by_why = dict(zip(found.tolist(), counts.tolist(), strict=True))
    return Trusted(ids[trusted], names.first[trusted], why[trusted], groups[trusted], by_why)


def _differ(run: Run, ids: Ids, names: Any) -> Flags:
    """Where several answers about an image, or several sources of labels, say different names: bool [N]."""
    import numpy as np
    import pyarrow.compute as pc

    label, found = run.config.label, np.zeros(len(ids), bool)
    if label.samples > 1 and not label.sources and names.label_ids.shape[1] > 1:
        found |= names.label_ids[:, 1] != NONE
    if len(label.sources) > 1:
        rows = run.table("votes").read(["image_id", "rank", "label_id"])
        first = rows.filter(pc.equal(rows["rank"], 1))
        at = np.searchsorted(ids, first["image_id"].to_numpy())
        others = first["label_id"].to_numpy() != names.first[at]
        found[at[others]] = True
    return found


def _doubts(run: Run, ids: Ids) -> tuple[Flags, Flags]:
    """Whether the neighbours of an image say something about its name, and whether they prefer another: bool [N]."""
    import pyarrow.compute as pc

    from fgvr.training.targets import spread

    rows = run.table("issues").read(["image_id", "score", "neighbours_name", "why"])
    of = rows["image_id"].to_numpy()
    judged = pc.and_(pc.is_valid(rows["score"]), pc.not_equal(rows["why"], NOTHING_NEAR))
    doubted = pc.is_valid(rows["neighbours_name"])
    found = [spread(ids, of, flags.to_numpy(zero_copy_only=False), False) for flags in (judged, doubted)]
    return found[0], found[1]


def _of_column(run: Run, ids: Ids) -> Ids:
    """The group that the source's `group_column` names, int64 [N]; −1 without one."""
    import numpy as np

    from fgvr.metadata.stored import metadata

    column = _group_column(run.config)
    if column is None or not len(ids):
        return np.full(len(ids), -1, np.int64)
    codes = metadata(run.table("samples"), ids, [column])[column].combine_chunks().dictionary_encode().indices
    return np.asarray(codes.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def _of_copies(labels: Any, ids: Ids) -> Ids:
    """The near-duplicates among which an image is, where the run has looked for them, int64 [N]; else −1."""
    import numpy as np

    photos = photos_of(labels, ids)
    return np.full(len(ids), -1, np.int64) if photos is None else photos


def _of_vectors(run: Run, ids: Ids) -> Ids:
    """Images with equal vectors, int64 [N]; −1 without a vector."""
    import numpy as np

    from fgvr.neighbours.discovery import digests_of, discovery_vectors

    vectors, embedded = discovery_vectors(run.table("embeddings"), ids)
    found = np.full(len(ids), -1, np.int64)
    if embedded.any():
        found[embedded] = np.unique(digests_of(vectors[embedded]), return_inverse=True)[1]
    return found


@per_run
def _split(run: Run) -> Split:
    """Photos to learn from and to judge; raises AdapterError where there are too few."""
    from fgvr.adapt.trusted import split

    adapt, trusted = run.config.adapt, _trusted(run)
    return split(
        trusted.ids,
        trusted.names,
        trusted.why,
        trusted.groups,
        judge_share=adapt.judge_share,
        max_learned=adapt.max_images,
        max_judged=adapt.max_judged,
        seed=adapt.seed,
    )


def _in_words(trusted: Trusted, parts: Split) -> str:
    counts = ", ".join(f"{count:,} {why}" for why, count in sorted(trusted.counts.items()))
    return f"names are {counts}; {len(parts.learned):,} photos to learn from, {len(parts.judged):,} to judge"


def _job(run: Run, parts: Split, folder: StageFolder, training: str) -> AdaptJob:
    from fgvr.adapt.job import AdaptJob
    from fgvr.mllm.backends import exactly, with_weights
    from fgvr.names.aliases import read_aliases

    config, adapt = run.config, run.config.adapt
    model = with_weights(exactly(_model(config))) or _model(config)  # pinning keeps the kind
    return AdaptJob(
        model=model,
        learned=_named(run, parts.learned),
        judged=_named(run, parts.judged),
        aliases=read_aliases(run.table("labels").path(ALIASES_FILE)),
        recipe=_recipe(config),
        side=adapt.image_side,
        limits=config.ingest.limits,
        threads=max(2, int(adapt.workers.num_cpus)),
        training=folder.path(training),
        adapter=folder.path(ADAPTER_FOLDER),
        confidence=adapt.confidence,
        min_gain=adapt.min_gain,
    )


def _recipe(config: Config) -> Recipe:
    from fgvr.adapt.training import Recipe

    adapt = config.adapt
    return Recipe(
        steps=adapt.steps,
        answers=adapt.answers,
        photos=adapt.photos,
        max_tokens=config.label.max_tokens,
        beta=adapt.beta,
        stages=adapt.stages,
        lr=adapt.lr,
        rank=adapt.rank,
        temperature=adapt.temperature,
        save_steps=adapt.checkpoint_steps,
        seed=adapt.seed,
        gpu=adapt.workers.num_gpus > 0,
        prompt=config.label.prompt,
    )


def _named(run: Run, ids: Ids) -> Named:
    """Places and trusted names of photos, in the order of their ids."""
    import numpy as np

    from fgvr.adapt.job import Named
    from fgvr.names.label_space import read_label_space

    trusted, space = _trusted(run), read_label_space(run.table("labels")).labels
    names = trusted.names[np.searchsorted(trusted.ids, ids)]
    return Named(run.table("samples").take(ids, ["uri"])["uri"].to_pylist(), [space[name] for name in names.tolist()])


def _adapt(job: AdaptJob) -> Adapted:
    """In the worker: train and judge, and tell the driver how far it is."""
    from cluster.progress import ProgressWriter
    from fgvr.adapt.job import run_job

    return run_job(job, told=ProgressWriter(job.training).write)


def _rows(trusted: Trusted, parts: Split, job: AdaptJob, adapted: Adapted) -> pa.Table:
    """One row per photo of either role, by their ids."""
    import numpy as np
    import pyarrow as pa

    from fgvr.schemas import ADAPTATION

    why = dict(zip(trusted.ids.tolist(), trusted.why.tolist(), strict=True))
    rows: list[dict[str, Any]] = []
    for role, ids, named, failures in (
        (LEARN, parts.learned, job.learned, adapted.learned_failures),
        (JUDGE, parts.judged, job.judged, adapted.judged_failures),
    ):
        for at, image_id in enumerate(ids.tolist()):
            failed = failures.get(at)
            row = {"image_id": image_id, "role": role, "name": named.names[at], "why": why[image_id]}
            if role == JUDGE:
                row |= {"answer_before": adapted.before.answers[at], "answer_after": adapted.after.answers[at]}
                row |= {"right_before": adapted.before.right[at], "right_after": adapted.after.right[at]}
            rows.append(row | {"error": None if failed is None else failed.as_row()})
    order = np.argsort([row["image_id"] for row in rows])
    return pa.Table.from_pylist([rows[place] for place in order.tolist()], schema=ADAPTATION)


if __name__ == "__main__":
    stage_main(__doc__, "adaptation")
