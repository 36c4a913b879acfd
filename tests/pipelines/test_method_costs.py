"""Hours and US$ of methods, by hand."""

import datetime as dt
from collections import Counter
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from fgvr.config import build
from fgvr.config.run import Method
from fgvr.report.console import METHOD_MEANINGS, METHOD_TITLES
from fgvr.report.costs import IMAGES, Billing, Machine, Paid, method_costs
from fgvr.report.prices import ModelPrice, Prices
from fgvr.report.results import StageResult, cost
from pipelines.billing import paid_by
from pipelines.evaluate import table_of
from pipelines.neighbours import SearchStage
from pipelines.photo_counts import Photos
from pipelines.registry import STAGES as TABLES
from pipelines.run_tables import Look


def tokens(prompt: int, output: int, cached: int = 0) -> dict[str, int]:
    return {"prompt_tokens": prompt, "output_tokens": output, "cached_tokens": cached}


STAGES = [
    StageResult("samples", 5, 1000, 0),
    StageResult("answers", 360, 100, 0, tokens=tokens(100_000, 1_000)),
    StageResult("labels", 0, 100, 0),
    StageResult("embeddings", 100, 1000, 0),  # 0.1 s an image
    StageResult("near", 720, 100, 0),
    StageResult("eval_near", 2, 200, 0),  # 0.01 s an image
    StageResult("eval_zs_clip", 4, 200, 0),
    StageResult("eval_mllm_answers", 720, 200, 0, tokens=tokens(200_000, 2_000, cached=50_000)),
    StageResult("aspects", 1800, 100, 0, tokens=tokens(1_000_000, 0)),
    StageResult("makd", 3600, 20, 0),
    StageResult("base", 1800, 20, 0),
    StageResult("eval_makd", 20, 200, 0),
]
PRICES = Prices(
    date=dt.date(2026, 1, 1),
    source="a list",
    models={"gpt": ModelPrice(input=2, cached=1, output=10)},
    gpu_hour=3,
    cpu_hour=0.1,
)
SERVER = {"answers": "gpt", "eval_mllm_answers": "gpt", "aspects": "gpt"}
MACHINES = {"near": Machine(cpus=8, gpus=2), "embeddings": Machine(cpus=4)}


CLASSES = {"train": Counter({0: 6, 1: 4}), "test": Counter({0: 2})}


def paid(*methods: Method, split: str = "test", **config: Any) -> dict[str, Paid]:
    """What each pays for, of photos with a class each."""
    tree = {"ingest": {"source": {"kind": "table", "path": "x.csv"}}, "questions": {"file": "q.txt"}, **config}
    look = Look(build(tree | {"evaluate": {"split": split}}), "/no/such/run", Photos({"train": 10, "test": 2}, CLASSES))
    return {method: paid_by(look, method, table_of(look, method)) for method in methods}


def test_by_hand() -> None:
    costs = method_costs(paid("mllm", "zs_clip", "near"), STAGES, Billing(PRICES, SERVER, MACHINES))
    assert (costs.images, costs.prices) == (10_000, "2026-01-01, a list")

    # 3.6 s an image; 200 images: 150,000 · 2 + 50,000 · 1 + 2,000 · 10 millionths = 0.37 and 0.2 h of a core.
    mllm = costs.methods["mllm"]
    assert (mllm.preparation_hours, mllm.training_hours, mllm.inference_hours) == pytest.approx((0, 0, 10))
    assert mllm.usd == pytest.approx(50 * (0.37 + 0.2 * 0.1))

    # Names: 0.1 h, 100,000 · 2 + 1,000 · 10 = 0.21 and 0.01 for the core. 10,000 images: 1,000 s on four cores + 200 s.
    zero_shot = costs.methods["zs_clip"]
    assert zero_shot.preparation_hours == pytest.approx(0.1)
    assert zero_shot.training_hours == 0
    assert zero_shot.inference_hours == pytest.approx(1200 / 3600)
    clip = 1000 / 3600 * 4 * 0.1
    assert zero_shot.usd == pytest.approx(0.22 + clip + 200 / 3600 * 0.1)

    near = costs.methods["near"]
    assert near.training_hours == pytest.approx(0.2)
    assert near.usd == pytest.approx(0.22 + 0.2 * 2 * 3 + clip + 100 / 3600 * 0.1)


def test_students_pay_for_near_where_they_learned_its_labels() -> None:
    own = method_costs(paid("makd"), STAGES, Billing()).methods["makd"]
    near = method_costs(paid("makd", makd={"target": "near"}), STAGES, Billing()).methods["makd"]
    assert (own.preparation_hours, own.training_hours) == pytest.approx((0.5, 1.0))
    assert (near.preparation_hours, near.training_hours) == pytest.approx((0.6 + 100 / 3600, 1.2))
    assert own.inference_hours == near.inference_hours == pytest.approx(20 / 200 / 3600 * IMAGES)


def test_one_pass_for_labels_and_aspects_is_paid_by_both_and_once_by_who_needs_both() -> None:
    """It took 360 s, and the tables that are taken from it a second each."""
    parts = {"answers": StageResult("answers", 1, 100, 0), "aspects": StageResult("aspects", 1, 100, 0)}
    stages = [StageResult("looks", 360, 150, 0), *(parts.get(stage.name, stage) for stage in STAGES)]
    own = method_costs(paid("makd", "near", aspects={"with_labels": True}), stages, Billing()).methods
    assert own["makd"].preparation_hours == pytest.approx(361 / 3600)
    assert own["near"].preparation_hours == pytest.approx(361 / 3600)
    both = paid("makd", aspects={"with_labels": True}, makd={"target": "near"})
    near = method_costs(both, stages, Billing()).methods["makd"]
    assert near.preparation_hours == pytest.approx((360 + 2 + 100) / 3600)


def test_what_has_no_price_is_unknown_and_named_never_free() -> None:
    server = {**SERVER, "answers": "another-model"}
    costs = method_costs(paid("mllm", "zs_clip"), STAGES, Billing(PRICES, server)).methods
    assert costs["mllm"].usd is not None
    assert (costs["zs_clip"].usd, costs["zs_clip"].unpriced) == (None, ("another-model",))
    no_gpu = PRICES.model_copy(update={"gpu_hour": None})
    near = method_costs(paid("near"), STAGES, Billing(no_gpu, SERVER, MACHINES)).methods["near"]
    assert near.unpriced == ("gpu_hour",)
    none = method_costs(paid("zs_clip"), STAGES, Billing()).methods["zs_clip"]
    assert (none.usd, none.unpriced) == (None, ("no price file (evaluate.prices)",))


def test_the_mllm_on_the_images_that_it_has_named_already() -> None:
    stages = [stage for stage in STAGES if stage.name != "eval_mllm_answers"]
    mllm = method_costs(paid("mllm", split="none"), stages, Billing(PRICES, SERVER)).methods["mllm"]
    assert mllm.inference_hours == pytest.approx(10)
    assert mllm.usd == pytest.approx(100 * 0.22)


def test_every_method_of_the_config_has_a_title_and_its_stages() -> None:
    assert set(get_args(Method)) == set(METHOD_TITLES) == set(METHOD_MEANINGS)
    assert {f"eval_{method}" for method in get_args(Method)} <= set(TABLES)


def test_near_duplicates_and_the_search_in_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SearchStage, "plan", lambda *_: SimpleNamespace(tasks=True))
    stages = [
        StageResult("duplicates_neighbours", 36, 400, 0),
        StageResult("duplicates", 72, 400, 0),
        StageResult("answers", 360, 100, 0),
        StageResult("shared_answers", 108, 400, 0),
        StageResult("labels", 0, 400, 0),
        StageResult("neighbours", 180, 400, 0),
        StageResult("near", 720, 400, 0),
    ]
    shared = paid("mllm", "near", split="none", label={"duplicate_similarity": 0.98})
    costs = method_costs(shared, stages, Billing()).methods
    # Named: 0.01 + 0.02 + 0.1 + 0.03 hours; the search for neighbours is a part of the training, 0.05 of 0.25.
    assert (costs["near"].preparation_hours, costs["near"].training_hours) == pytest.approx((0.16, 0.25))
    # An MLLM that is asked about each of 10,000 images: 3.6 s an answer, nothing shared.
    assert costs["mllm"].inference_hours == pytest.approx(10)


def test_tokens_that_a_server_did_not_state_make_no_cost_too_low() -> None:
    stated = StageResult("answers", 360, 100, 0, tokens={**tokens(100_000, 1_000), "uncounted_rows": 3})
    stages = [stated if stage.name == "answers" else stage for stage in STAGES]
    found = method_costs(paid("zs_clip", "makd"), stages, Billing(PRICES, SERVER, MACHINES)).methods
    assert found["zs_clip"].usd is None
    assert found["zs_clip"].unpriced == ("tokens of gpt, which its server does not report",)
    assert found["makd"].usd is not None  # it needs no names
    totals = cost(stages)
    assert (totals["prompt_tokens"], totals["uncounted_rows"]) == (1_300_000, 3)
    assert "uncounted_rows" not in totals["evaluation"]
