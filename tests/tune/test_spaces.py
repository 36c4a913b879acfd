import math

import pytest

from fgvr.config import Config, ConfigError, build
from tune.spaces import describe, makd_space, near_space, start_of, with_values


def test_adamw_has_smaller_rates():
    found = makd_space(build({"makd": {"optimizer": "adamw", "lr": 5e-4}}), 12)["makd.lr"]
    assert (found.lower, found.upper) == (1e-5, 1e-2)


def categories(space, field):
    return list(space[field].categories)


@pytest.mark.parametrize("space", [near_space(Config(), 360), makd_space(Config(), 26)], ids=["near", "makd"])
def test_every_value_makes_a_config(space):
    for _ in range(100):
        values = {field: domain.sample() for field, domain in space.items()}
        config = with_values(Config(), values)
        for field, value in values.items():
            part, name = field.split(".")
            assert getattr(getattr(config, part), name) == value
    for field, domain in space.items():
        for value in getattr(domain, "categories", []):
            with_values(Config(), {field: value})


def test_learning_rates_are_log_uniform():
    domain = near_space(Config(), 360)["near.lr"]
    logs = [math.log(domain.sample()) for _ in range(2000)]
    assert min(logs) >= math.log(5e-4)
    assert max(logs) <= math.log(0.5)
    # The mean of a uniform distribution, within 4 standard errors of it: width / √12 / √2000.
    width = math.log(1000)
    assert sum(logs) / 2000 == pytest.approx(math.log(5e-4) + width / 2, abs=4 * width / math.sqrt(12 * 2000))


def test_the_config_s_own_values_are_tried_first():
    config = build(
        {"near": {"lr": 0.9, "context_length": 6}, "candidates": {"k": 4}, "makd": {"alpha": 50, "questions": 7}}
    )
    near, makd = near_space(config, 360), makd_space(config, 26)
    assert start_of(config, near) == {
        "near.lr": 0.9,
        "near.loss": "proden",
        "candidates.k": 4,
        "near.context_length": 6,
    }
    assert start_of(config, makd) == {"makd.lr": 0.01, "makd.alpha": 50, "makd.questions": 7}
    assert (near["near.lr"].upper, makd["makd.alpha"].upper) == (0.9, 50)
    assert categories(near, "candidates.k") == [1, 2, 3, 5, 8, 12, 4]
    assert categories(makd, "makd.questions") == [10, 20, 26, 7]


def test_without_a_number_of_questions_all_are_meant():
    assert start_of(Config(), makd_space(Config(), 26))["makd.questions"] == 26
    assert categories(makd_space(Config(), 100), "makd.questions") == [10, 20, 30, 50, 100]
    assert categories(makd_space(Config(), 10), "makd.questions") == [10]


def test_fields_without_meaning_are_left_out():
    single = build({"candidates": {"method": "single"}, "near": {"context_init": "a photo of a"}})
    assert set(near_space(single, 360)) == {"near.lr", "near.loss"}
    assert categories(near_space(Config(), 4), "candidates.k") == [1, 2, 3]


def test_values_are_put_into_the_config():
    config = with_values(Config(), {"near.lr": 0.5, "candidates.k": 7})
    assert (config.near.lr, config.candidates.k) == (0.5, 7)
    assert config.model_copy(update={"near": Config().near, "candidates": Config().candidates}) == Config()
    with pytest.raises(ConfigError, match=r"near\.lr = -1"):
        with_values(Config(), {"near.lr": -1})


def test_a_space_is_named_by_its_values():
    space = near_space(Config(), 4)
    assert describe(space)["candidates.k"] == "[1, 2, 3]"
    assert describe(space) != describe(near_space(Config(), 5))
    assert describe(space) == describe(near_space(Config(), 4))
