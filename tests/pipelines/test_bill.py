"""What a run will ask and cost, reckoned by hand from the config and counts of photos."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fgvr.config import Config, build, load_config
from fgvr.mllm.backends import provider
from pipelines.asks import Ask, Load, asks
from pipelines.bill import Bill
from pipelines.estimate import bill_of
from pipelines.evaluate import whole_job
from pipelines.photo_counts import Photos
from pipelines.probed import Probed, key_of, read_probed, write_probed
from pipelines.run_tables import Look

PRESETS = Path(__file__).parents[2] / "pipelines" / "configs"
MILLIONS = Photos({"train": 4_000_000})
PRICES = """date: 2026-01-01
source: a list
models: {small: {input: 2, cached: 1, output: 10}}
gpu_hour: 3
cpu_hour: 0.1
"""
FOLDER = {"source": {"kind": "folder", "path": "/photos"}}
GPU = {"workers": {"num_gpus": 1}}


@pytest.fixture
def questions(tmp_path: Path) -> str:
    """50 of eight bytes, which are two tokens each."""
    (tmp_path / "questions.txt").write_text("".join(f"Is a{number:02d}?\n" for number in range(50)))
    return str(tmp_path / "questions.txt")


@pytest.fixture
def prices(tmp_path: Path) -> str:
    (tmp_path / "prices.yaml").write_text(PRICES)
    return str(tmp_path / "prices.yaml")


def photos_preset(questions: str, *more: str) -> Config:
    flags = ["--config", "photos", "--questions.file", questions, "--ingest.source.path", "/photos"]
    return load_config([*flags, *more], PRESETS)


def wanted(config: Config, tables: tuple[str, ...]) -> tuple[str, ...]:
    return tables or (*whole_job(config), "report")


def bill(config: Config, photos: Photos, *tables: str) -> Bill:
    return bill_of(Look(config, "/no/such/run", photos), wanted(config, tables))


def asked(tree: dict[str, Any], photos: Photos, *tables: str) -> dict[str, Ask]:
    config = build(tree)
    return {ask.stage: ask for ask in asks(Look(config, "/no/such/run", photos), wanted(config, tables))}


def test_the_preset_for_own_photos_asks_a_sample_and_says_what_it_takes(questions: str, prices: str) -> None:
    config = photos_preset(questions, "--evaluate.prices", prices)
    found = bill(config, MILLIONS)
    assert [(line.ask.stage, line.rows, line.load.requests) for line in found.lines] == [
        ("answers", 20_000, 20_000),
        ("aspects", 20_000, 1_000_000),
    ]
    # At 20 and 5 images a second and GPU: 1,000 s and 4,000 s, at US$ 3 an hour; all photos: 200,000 s.
    assert [line.seconds for line in found.lines] == pytest.approx([1_000, 4_000])
    assert found.usd == pytest.approx(5_000 / 3600 * 3)
    assert (found.naming_all.load.requests, found.naming_all.seconds) == (4_000_000, pytest.approx(200_000))
    assert found.warning() is None


def test_asking_about_every_photo_is_warned_of_in_one_sentence_that_names_the_field(questions: str) -> None:
    found = bill(photos_preset(questions, "--aspects.max_images", "null"), MILLIONS)
    assert found.lines[1].rows == 4_000_000
    # 800,000 s of questions, 222 GPU-hours, against the 56 of naming every photo.
    assert found.lines[1].seconds == pytest.approx(800_000)
    words = found.warning()
    assert words is not None
    assert "\n" not in words
    assert "more than naming all 4,000,000 photos" in words
    # Half of 200,000 s, less the 1,000 s of names, are 99,000 s at five images a second: 495,000, in two digits.
    assert "--aspects.max_images 490000" in words


def test_nobody_is_warned_of_minutes_and_cents(questions: str) -> None:
    assert bill(photos_preset(questions), Photos({"train": 1_000})).warning() is None


def test_a_server_is_paid_by_the_token(questions: str, prices: str) -> None:
    flags = [
        "--mllm.kind",
        "openai",
        "--mllm.model",
        "small",
        "--evaluate.prices",
        prices,
        "--label.prompt",
        "Name it.",
    ]
    found = bill(photos_preset(questions, *flags), Photos({"train": 100}), "labels", "aspects")
    answers, aspects = found.lines
    # 20 of the chat's frame, 1,000 assumed of the image, 2 of the prompt's 8 bytes; 32 of the answer at most.
    assert (answers.load.prompt, answers.load.output) == (100 * 1022, 100 * 32)
    assert answers.seconds is None
    assert answers.usd == pytest.approx((100 * 1022 * 2 + 100 * 32 * 10) / 1e6)
    # 76 bytes of instruction are 19 tokens, a question 2; each is asked with its own image, at the full price.
    instruction = -(-len("The answer must always be either Yes or No (do not provide any other response).") // 4)
    assert aspects.load.prompt == 100 * 50 * (1020 + instruction + 2)
    assert aspects.load.cached == 0
    assert "tokens: 1,000 per photo assumed" in "\n".join(found.table())


def test_a_model_without_a_price_has_none_and_is_not_free(questions: str, prices: str) -> None:
    flags = ["--mllm.kind", "openai", "--mllm.model", "large", "--evaluate.prices", prices]
    found = bill(photos_preset(questions, *flags), MILLIONS)
    assert found.usd is None
    assert "?" in found.table()[1].split()


@pytest.mark.parametrize("mllm", [{"kind": "simulated"}, {"kind": "vllm", "model": "demo"}])
def test_what_costs_nothing_is_one_line_and_no_warning(mllm: dict[str, str], questions: str) -> None:
    tree = {"ingest": FOLDER, "mllm": mllm, "questions": {"file": questions}, "aspects": {"max_images": None}}
    found = bill(build(tree), MILLIONS)
    assert len(found.table()) == 1
    assert "aspects 200,000,000" in found.table()[0]
    assert found.warning() is None
    assert found.usd == 0


def test_images_are_those_of_the_split_the_classes_and_the_bounds() -> None:
    kinds = {"train": Counter({0: 5, 1: 2, 2: 9}), "test": Counter({0: 4})}
    photos = Photos({"train": 16, "test": 4}, kinds)
    tree: dict[str, Any] = {"ingest": {"source": {"kind": "table", "path": "x.csv"}}, "mllm": {"kind": "simulated"}}
    few = asked(tree | {"label": {"images": {"per_class": 3}}}, photos)
    assert {stage: ask.rows for stage, ask in few.items()} == {
        "answers": 3 + 2 + 3,
        "aspects": 16,
        "eval_mllm_answers": 4,
    }
    assert asked(tree | {"label": {"images": {"per_class": None, "max_images": None}}}, photos)["answers"].rows == 16
    assert asked(tree | {"aspects": {"split": "test"}}, photos)["aspects"].rows == 4
    assert asked(tree | {"evaluate": {"max_images": 3}}, photos)["eval_mllm_answers"].rows == 3
    # Without an evaluation split the discovery images stand in, which have been named.
    assert "eval_mllm_answers" not in asked(tree | {"evaluate": {"split": "none"}}, photos)


def test_a_sampled_and_a_listed_answer_take_more() -> None:
    tree: dict[str, Any] = {"ingest": FOLDER, "mllm": {"kind": "simulated"}}
    photos = Photos({"train": 10})
    one = asked(tree, photos, "labels")["answers"].row
    five = asked(tree | {"label": {"samples": 5, "temperature": 0.7, "listed": 3}}, photos, "labels")["answers"].row
    assert (five.requests, five.output) == (5 * one.requests, 5 * 3 * one.output)


def test_one_pass_asks_about_the_images_of_both(questions: str) -> None:
    tree: dict[str, Any] = {
        "ingest": FOLDER,
        "mllm": {"kind": "simulated"},
        "questions": {"file": questions},
        "label": {"images": {"max_images": 30}},
        "aspects": {"with_labels": True, "max_images": 100},
    }
    looks = asked(tree, Photos({"train": 1_000}), "near", "aspects")["looks"]
    assert (looks.rows, looks.at_most) == (100, False)
    assert looks.row.times(100).requests == pytest.approx(30 + 100 * 50)
    other = asked(tree | {"label": {"images": {"max_images": 30, "seed": 9}}}, Photos({"train": 1_000}), "labels")[
        "looks"
    ]
    assert (other.rows, other.at_most) == (130, True)


def test_only_what_a_table_needs_is_asked(questions: str) -> None:
    tree: dict[str, Any] = {
        "ingest": FOLDER,
        "mllm": {"kind": "simulated"},
        "questions": {"llm": {"kind": "openai", "model": "m"}},
    }
    photos = Photos({"train": 50})
    assert list(asked(tree, photos, "labels")) == ["answers"]
    assert list(asked(tree, photos, "questions")) == ["answers", "questions"]  # for the names that the answers give
    assert list(asked(tree, photos, "makd")) == ["answers", "questions", "aspects"]
    assert list(asked(tree | {"makd": {"alpha": 0}}, photos, "makd")) == ["answers"]
    assert list(asked(tree | {"infer": {"model": "/m"}}, photos, "predictions")) == []
    taught = {"makd": {"distillation": {"kind": "kd", "teacher": "mllm"}}}
    assert list(asked(tree | taught, photos, "base")) == ["answers", "class_scores"]
    shared = tree | {"label": {"duplicate_similarity": 0.98}}
    assert asked(shared, photos, "labels")["answers"].at_most


def test_methods_that_ask_are_on_the_bill(questions: str) -> None:
    tree: dict[str, Any] = {
        "ingest": FOLDER,
        "mllm": {"kind": "simulated"},
        "questions": {"file": questions},
        "baselines": {"finer": {"llm": {"kind": "openai", "model": "writer"}}},
        "evaluate": {"methods": ["finer", "findr"]},
    }
    found = asked(tree, Photos({"train": 40}), "report")
    assert {stage: ask.rows for stage, ask in found.items()} == {
        "answers": 40,
        "finer_aspects": 40,
        "finer_answers": 40,
        "findr_meta": 1,
        "findr_answers": 40,
    }
    assert found["finer_answers"].model.model == "writer"
    told = {"findr": {"category": "bird", "unit": "species", "expert": "ornithologist"}}
    assert "findr_meta" not in asked(tree | {"baselines": told | tree["baselines"]}, Photos({"train": 40}), "report")


def test_engines_share_the_hours_and_not_the_money(questions: str, prices: str) -> None:
    flags = ["--evaluate.prices", prices, "--label.workers.num_gpus", "2", "--mllm.tensor_parallel_size", "2"]
    one = bill(photos_preset(questions, *flags), MILLIONS, "labels").lines[0]
    four = bill(photos_preset(questions, *flags, "--label.workers.max_workers", "4"), MILLIONS, "labels").lines[0]
    assert (one.seconds, four.seconds) == (pytest.approx(500), pytest.approx(125))
    assert one.usd == pytest.approx(four.usd) == pytest.approx(1_000 / 3600 * 3)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("OpenGVLab/InternVL3_5-8B-HF", 8),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", 3),
        ("org/Tiny-0.5B", 0.5),
        ("org/no-size", 8),
        ("s3://bucket/models/VL-72B", 72),
    ],
)
def test_the_size_of_a_model_is_in_its_name(model: str, expected: float) -> None:
    config = build({"mllm": {"kind": "vllm", "model": model}})
    assert provider(config.mllm).billions() == expected


def works(found: Bill) -> dict[str, tuple[int, float]]:
    return {line.task.stage: (line.rows, line.epochs) for line in found.works}


def test_stages_that_ask_nothing_are_in_the_plan_with_their_photos_and_passes(questions: str) -> None:
    found = bill(photos_preset(questions), MILLIONS)
    # 20,000 named, 100,000 trained on: of these a tenth is held out, and 300,000 steps of 16 are 53 epochs of the rest.
    assert works(found) == {
        "embeddings": (120_000, 1),
        "near": (20_000, 100),
        "base": (100_000, 53),
        "makd": (100_000, 53),
        "predictions": (4_000_000, 1),
        "eval_base": (10_000, 1),
        "eval_makd": (10_000, 1),
    }
    page = "\n".join(found.page())
    assert "100,000 × 53" in page
    assert "hours of embeddings, near, base, makd, predictions, eval_base, eval_makd: not known" in page
    assert "all stages" in page
    assert "≥" in page


def test_steps_that_bound_the_training_bound_its_passes(questions: str) -> None:
    found = bill(photos_preset(questions, "--makd.max_steps", "11250"), MILLIONS)
    assert works(found)["makd"] == (100_000, 2)  # 90,000 images are 5,625 steps of 16


def probed(tmp_path: Path, config: Config, **rates: Probed) -> Look:
    write_probed(str(tmp_path), {stage: replace(rate, key=key_of(stage, config)) for stage, rate in rates.items()})
    return Look(config, str(tmp_path), MILLIONS)


def test_probed_rates_are_of_one_worker_and_last_while_the_settings_do(
    questions: str, prices: str, tmp_path: Path
) -> None:
    flags = ["--evaluate.prices", prices, "--embed.workers.max_workers", "4"]
    config = photos_preset(questions, *flags)
    rates = {
        "embeddings": Probed("", 20, 0.1),
        "makd": Probed("", 20, 0.001),
        "answers": Probed("", 20, 0.5, Load(0, 900, 0, 6)),
    }
    look = probed(tmp_path, config, **rates)
    found = bill_of(look, wanted(config, ()))
    hours = {line.task.stage: line.seconds for line in found.works}
    assert hours["embeddings"] == pytest.approx(120_000 * 0.1 / 4)
    assert hours["makd"] == hours["base"] == pytest.approx(100_000 * 53 * 0.001)  # students without aspects are alike
    assert hours["near"] is None
    answers = found.lines[0]
    assert (answers.seconds, answers.source) == (pytest.approx(10_000), "a probe of 20 photos")
    assert (answers.load.prompt, answers.load.output) == (pytest.approx(18e6), pytest.approx(120_000))
    # 2 cores at US$ 0.10 an hour.
    assert next(line.usd for line in found.works if line.task.stage == "makd") == pytest.approx(5300 / 3600 * 0.2)
    page = "\n".join(found.page())
    assert "hours of answers, embeddings, base, makd: a probe of 20 photos" in page
    fewer = photos_preset(questions, *flags, "--label.images.max_images", "500", "--makd.epochs", "5")
    assert bill_of(Look(fewer, str(tmp_path), MILLIONS), ("labels",)).lines[0].source == "a probe of 20 photos"
    other = photos_preset(questions, *flags, "--label.prompt", "What is it?", "--makd.image_size", "64")
    found = bill_of(Look(other, str(tmp_path), MILLIONS), wanted(other, ()))
    assert found.lines[0].source == "assumed"
    assert {line.task.stage for line in found.works if line.seconds is None} >= {"makd", "base"}


def test_a_probe_of_kept_replies_has_no_time_and_takes_none_away(questions: str, tmp_path: Path) -> None:
    config = photos_preset(questions)
    probed(tmp_path, config, answers=Probed("", 20, 0.5, Load(0, 900, 0, 6)))
    probed(tmp_path, config, answers=Probed("", 20, None, Load(0, 900, 0, 6)))
    assert read_probed(str(tmp_path)).stages["answers"].seconds == 0.5
