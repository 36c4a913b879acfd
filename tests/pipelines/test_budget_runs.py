"""A run that its budget stops between two parts, and that the same command with a larger one finishes."""

from pathlib import Path
from typing import Any

import pytest
from test_mllm_stages import ChatServer, Reply, flow, model, serving

from cluster.budget import BudgetReached, Ledger, counted
from fgvr import storage, tables
from fgvr.config import Config, ConfigError, build
from fgvr.config.run import Budget
from fgvr.spending import Tokens
from pipelines import preflight
from pipelines.estimate import bill_of
from pipelines.photo_counts import Photos
from pipelines.preflight import check_tables, compute
from pipelines.run_tables import Look, Run
from pipelines.spending import expect
from tests.without_ray import parts_without_ray

MODEL = {"kind": "openai", "model": "m", "max_retries": 0}


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    parts_without_ray(monkeypatch)
    monkeypatch.setattr(preflight, "check_capacities", lambda *_: None)


def billed(body: dict[str, Any], number: int) -> Reply:
    """A name for 1,000 tokens in and 30 out."""
    status, headers, reply = model(body, number)
    return status, headers, {**reply, "usage": {"prompt_tokens": 1000, "completion_tokens": 30}}


def labelled(folder: Path, server: ChatServer, limit: Budget, **mllm: Any) -> Run:
    """A session that computes the labels of 36 images in parts of ten, within the budget."""
    run = flow(folder, server, mllm={**MODEL, "base_url": server.url, **mllm})
    with counted(run.folder, limit):
        compute(run, ("labels",))
    return run


def test_it_stops_before_it_exceeds_and_goes_on_with_nothing_asked_twice(tmp_path: Path) -> None:
    with serving(ChatServer(billed)) as server:
        with pytest.raises(BudgetReached, match="20,600 tokens of 25,000 tokens are spent"):
            labelled(tmp_path, server, Budget(tokens=25_000))
        assert len(server.asked) == 20  # two parts of 10,300 tokens; a third would end at 30,900
        with pytest.raises(BudgetReached, match="20,600 tokens of 30,000"):
            labelled(tmp_path, server, Budget(tokens=30_000))
        assert len(server.asked) == 20
        run = labelled(tmp_path, server, Budget(tokens=40_000))
        assert len(server.asked) == 36
        assert run.table("labels").rows == 36
        assert Ledger.read(run.folder).models == {"m": Tokens(36, 36_000, 0, 36 * 30)}


def test_kept_replies_are_paid_for_once(tmp_path: Path) -> None:
    with serving(ChatServer(billed)) as server:
        first = labelled(tmp_path, server, Budget(tokens=40_000))
        answers = next(table for table in first.context.tables if table.name == "answers")
        for name in (tables.MANIFEST, tables.part_name(0), tables.part_name(2)):
            storage.remove(storage.join(answers.uri, name))
        asked = len(server.asked)
        again = labelled(tmp_path, server, Budget(tokens=40_000))  # of which 37,080 are spent
        assert again.table("labels").rows == 36
        spent = Ledger.read(again.folder).models["m"]
        assert spent.requests == len(server.asked)
        assert len(server.asked) - asked <= 20 * 3 / 8  # those without words, which nobody keeps


def test_a_budget_smaller_than_one_request_asks_nothing(tmp_path: Path) -> None:
    with serving(ChatServer(billed)) as server:
        with pytest.raises(BudgetReached, match="0 tokens of 900 tokens are spent, and a further part of 10 rows"):
            labelled(tmp_path, server, Budget(tokens=900))
        assert server.asked == []


def priced(tmp_path: Path, prices: str | None, **tree: Any) -> Config:
    given = None
    if prices is not None:
        (tmp_path / "prices.yaml").write_text(f"date: 2026-01-01\nsource: a list\n{prices}")
        given = str(tmp_path / "prices.yaml")
    (tmp_path / "photos.csv").write_text("uri\na.jpg\nb.jpg\n")
    source = {"kind": "table", "path": str(tmp_path / "photos.csv")}
    run = {"folder": str(tmp_path / "runs"), "budget": {"usd": 5}}
    base = {
        "ingest": {"source": source},
        "run": run,
        "evaluate": {"prices": given},
        "label": {"images": {"per_class": None}},
    }
    return build(base | tree)


@pytest.mark.parametrize(
    ("prices", "model", "said"),
    [
        (None, {}, "there are no prices to count in"),
        ("cpu_hour: 0.1", {**MODEL, "base_url": "http://127.0.0.1:9/v1"}, "has no price of m"),
        ("gpu_hour: 1", {}, "has no price of cpu_hour"),
    ],
)
def test_money_without_prices_is_refused_before_the_start(
    tmp_path: Path, prices: str | None, model: dict[str, Any], said: str
) -> None:
    config = priced(tmp_path, prices, **({"mllm": model} if model else {}))
    with pytest.raises(ConfigError, match=f"run.budget.usd = 5: .*{said}"):
        check_tables(config, ("labels",))


def test_money_with_prices_of_all_that_is_used_passes(tmp_path: Path) -> None:
    check_tables(priced(tmp_path, "cpu_hour: 0"), ("labels",))


def test_prices_in_another_currency_are_refused_and_without_one_they_are_dollars(tmp_path: Path) -> None:
    from fgvr.report.prices import SHIPPED, PricesError, read_prices

    config = priced(tmp_path, "cpu_hour: 1\ncurrency: EUR")
    with pytest.raises(PricesError, match="currency: Input should be 'USD'"):
        check_tables(config, ("labels",))
    priced(tmp_path, "cpu_hour: 1")
    found = read_prices(str(tmp_path / "prices.yaml"))
    assert found.currency is None
    assert read_prices(SHIPPED).currency == "USD"
    assert "currency" not in read_prices(SHIPPED).model_dump()  # reports of earlier versions stay


@pytest.mark.parametrize("budget", [{"usd": 0}, {"tokens": 0}, {"usd": -1}, {"euro": 5}])
def test_a_budget_of_nothing_or_of_something_else_is_no_config(budget: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        build({"run": {"budget": budget}})


def test_the_answers_of_every_source_are_expected(tmp_path: Path) -> None:
    """Tables of further sources are of the config, not of the registry."""
    second = {"kind": "ask", "name": "second", "mllm": MODEL | {"model": "n", "base_url": "http://127.0.0.1:9/v1"}}
    config = priced(tmp_path, None, mllm=MODEL | {"base_url": "http://127.0.0.1:9/v1"})
    config = config.model_copy(
        update={"label": build({"label": {"sources": [{"kind": "ask"}, second], "images": {"per_class": None}}}).label}
    )
    look = Look.of(config)
    look.count(Photos({"train": 10}))
    with counted(look.folder, config.run.budget) as spending:
        expect(look, bill_of(look, ("labels",)))
    first, further = spending.costs["answers"], spending.costs["answers_second"]
    assert (first.model, further.model) == ("m", "n")
    assert first.rows == further.rows == 10
    assert first.prompt == further.prompt > 0
