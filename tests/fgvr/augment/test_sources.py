"""Whose pictures are made, and by which prompts and seeds."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fgvr.augment.sources import COLUMNS, SyntheticRows, prompt_of, rare
from fgvr.config.augment import NEGATIVES, Augment
from fgvr.config.load import ConfigError, build


class Samples:
    """Photo n lies at /n.jpg."""

    def take(self, ids: Any, columns: list[str] | None = None) -> pa.Table:
        return pa.table({"uri": [f"/{n}.jpg" for n in np.asarray(ids).tolist()]})


def rows(**more: Any) -> SyntheticRows:
    values: dict[str, Any] = {
        "samples": Samples(),
        "source_ids": np.array([3, 5, 8, 9]),
        "classes": np.array([1, 0, 1, 1]),
        "names": ("Auk", "Tern"),
        "prompts": ("a {}", "one {}", "the {}"),
        "per_image": 2,
        "seed": 0,
    }
    return SyntheticRows(**(values | more))


def test_rare_names_have_fewer_photos_than_asked() -> None:
    classes = np.array([0, 1, 1, 2, 2, 2, -1])
    assert rare(classes, 3).tolist() == [0, 1, 2]
    assert rare(classes, 2).tolist() == [0]
    assert rare(classes, 1).tolist() == []
    assert rare(classes, 9).tolist() == [0, 1, 2, 3, 4, 5]
    assert rare(np.full(3, -1), 9).tolist() == rare(np.zeros(0, np.int64), 9).tolist() == []


def test_a_row_per_picture_with_its_photo_and_name() -> None:
    assert len(rows()) == 8
    found = rows().take(np.arange(8))
    assert found.column_names == list(COLUMNS)
    assert found["source_id"].to_pylist() == [3, 3, 5, 5, 8, 8, 9, 9]
    assert found["uri"].to_pylist()[:3] == ["/3.jpg", "/3.jpg", "/5.jpg"]
    assert found["name"].to_pylist() == ["Tern"] * 2 + ["Auk"] * 2 + ["Tern"] * 4
    for prompt, name in zip(found["prompt"].to_pylist(), found["name"].to_pylist(), strict=True):
        assert prompt in {f"a {name}", f"one {name}", f"the {name}"}
    # Another photo of the same name, or the photo itself where it is the only one:
    for uri, subject, name in zip(*(found[c].to_pylist() for c in ("uri", "subject_uri", "name")), strict=True):
        assert subject in ({"/5.jpg"} if name == "Auk" else {"/3.jpg", "/8.jpg", "/9.jpg"} - {uri})
    assert rows().take(np.zeros(0, np.int64)).num_rows == 0
    assert rows().take(np.array([6]), ["synthetic_id", "seed"]).column_names == ["synthetic_id", "seed"]


def test_a_picture_is_the_same_whatever_else_is_made() -> None:
    whole = rows().take(np.arange(8)).to_pylist()
    assert rows().take(np.array([7, 2])).to_pylist() == [whole[7], whole[2]]
    more = rows(per_image=3).take(np.array([0, 1, 3, 4])).to_pylist()
    assert [row["seed"] for row in more] == [row["seed"] for row in whole[:4]]
    fewer = rows(source_ids=np.array([5, 9]), classes=np.array([0, 1])).take(np.arange(4)).to_pylist()
    assert [row["seed"] for row in fewer] == [whole[n]["seed"] for n in (2, 3, 6, 7)]
    assert len({row["seed"] for row in whole}) == 8
    assert rows(seed=1).take(np.arange(8))["seed"].to_pylist() != [row["seed"] for row in whole]


def test_every_prompt_comes_up() -> None:
    many = rows(source_ids=np.arange(300), classes=np.zeros(300, np.int64)).take(np.arange(600))
    counts = np.unique(many["prompt"].to_numpy(), return_counts=True)[1]
    assert len(counts) == 3
    assert (np.abs(counts - 200) < 60).all()  # 200 ± 5 standard deviations of 11.5


def test_a_long_name_gets_the_shortest_prompt() -> None:
    assert prompt_of("a close-up photo of a {}", "Tern") == "a close-up photo of a Tern"
    long = "x" * 130
    assert prompt_of("a close-up photo of a {} in the evening", long) == f"a photo of a {long}"
    assert prompt_of("a {}", "{}") == "a {}"


def test_the_settings_are_those_of_the_paper() -> None:
    assert (
        *("a photo of an object", "a scene", "geometric shapes"),
        *("a photo", "an image", "a black photo"),
    ) == NEGATIVES
    settings = Augment()
    assert (settings.per_image, settings.max_per_source, settings.top_k, settings.alpha) == (2, 2, 10, 0)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"prompts": ["a photo"]}, "no place for the name"),
        ({"prompts": ["x" * 149 + "{}"]}, "151 letters"),
        ({"prompts": []}, "prompts"),
        ({"generator": {"size": 100}}, "size"),
        ({"alpha": 1.5}, "alpha"),
        ({"generator": {"kind": "drawn", "model": "x"}}, "model"),
    ],
)
def test_what_a_config_cannot_say(augment: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"augment": augment})
