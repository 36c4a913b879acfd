"""Which stages pay a server by the token, and what the others run on, from the config."""

from __future__ import annotations

from fgvr.config import Config
from fgvr.config.base import TrainWorkers, Workers
from fgvr.config.models import Mllm
from fgvr.report.costs import Billing, Machine
from fgvr.report.prices import read_prices
from pipelines.methods.finer import configured_model


def billing(config: Config) -> Billing:
    """How the run's stages are billed; raises PricesError for a price file that cannot be read."""
    prices = config.evaluate.prices
    backends: dict[str, Mllm | None] = dict.fromkeys(
        ("answers", "eval_mllm_answers", "findr_meta", "findr_answers", "aspects", "finer_aspects"), config.mllm
    )
    backends["questions"] = config.questions.llm
    backends["finer_answers"] = configured_model(config)
    models = {stage: llm.title for stage, llm in backends.items() if llm is not None and llm.billed_by_token}
    return Billing(None if prices is None else read_prices(prices), models, _machines(config))


def _machines(config: Config) -> dict[str, Machine]:
    label, embed, makd = config.label.workers, config.embed.workers, config.makd.workers
    aspects, questions, infer = config.aspects.workers, config.questions.workers, config.infer.workers
    workers: dict[str, Workers | TrainWorkers] = {
        **dict.fromkeys(("answers", "eval_mllm_answers", "findr_answers"), label),
        **dict.fromkeys(("aspects", "finer_aspects", "looks"), aspects),
        "class_scores": config.class_scores.workers,
        **dict.fromkeys(("embeddings", "views", "prototype_views"), embed),
        **dict.fromkeys(("makd", "base"), makd),
        **dict.fromkeys(("eval_makd", "eval_base", "eval_aspects"), infer),
        **dict.fromkeys(("neighbours", "duplicates_neighbours"), config.neighbours.workers),
        "near": config.near.workers,
    }
    machines = {stage: _reserved(given) for stage, given in workers.items()}
    once = {
        "findr_meta": label,
        "wordnet": embed,
        "captions": embed,
        "questions": questions,
        "finer_answers": questions,
    }
    return machines | {stage: Machine(given.num_cpus, given.num_gpus) for stage, given in once.items()}


def _reserved(workers: Workers | TrainWorkers) -> Machine:
    """By all workers at their most."""
    if isinstance(workers, TrainWorkers):
        return Machine(workers.num_workers * workers.num_cpus, float(workers.num_workers * workers.use_gpu))
    return Machine(workers.max_workers * workers.num_cpus, workers.max_workers * workers.num_gpus)
