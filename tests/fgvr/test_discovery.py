"""The discovery set."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fgvr.config.data import Discovery
from fgvr.sources.sampling import DiscoveryError, discovery_ids


def samples(classes: bool = True) -> pa.Table:
    """Images 0..59: the last ten are `test`, class = id mod 5, class 4 only once in `train`."""
    ids = np.arange(60)
    class_ids = [int(i % 5) if i % 5 != 4 or i == 4 else 3 for i in ids]
    return pa.table(
        {
            "image_id": ids,
            "split": ["train"] * 50 + ["test"] * 10,
            "class_id": pa.array(class_ids if classes else [None] * 60, pa.int32()),
        }
    )


def test_so_many_of_every_class(caplog: pytest.LogCaptureFixture) -> None:
    ids = discovery_ids([samples()], Discovery(per_class=3, seed=1))
    assert (np.diff(ids) > 0).all()
    assert ids.max() < 50
    counts = np.bincount(np.array(samples()["class_id"].to_pylist())[ids])
    assert counts.tolist() == [3, 3, 3, 3, 1]
    assert "1 classes have fewer" in caplog.text


def test_a_class_without_an_image_in_the_split_is_said(caplog: pytest.LogCaptureFixture) -> None:
    rows = samples()
    without = rows.filter(pc.or_(pc.equal(rows["split"], "test"), pc.not_equal(rows["class_id"], 2)))
    ids = discovery_ids([without], Discovery(per_class=3))
    counts = np.bincount(np.array(rows["class_id"].to_pylist())[ids])
    assert counts.tolist() == [3, 3, 0, 3, 1]
    assert "1 classes have no image in the split 'train'" in caplog.text


def test_the_legacy_split_is_test_whatever_the_split_says() -> None:
    wanted = discovery_ids([samples()], Discovery(split="test", per_class=2, seed=3))
    legacy = discovery_ids([samples()], Discovery(legacy_discovery_split=True, per_class=2, seed=3))
    assert legacy.tolist() == wanted.tolist()
    assert legacy.min() >= 50
    with pytest.raises(DiscoveryError, match=r"legacy_discovery_split: test: no image .*\(there are: train\)"):
        discovery_ids([samples().slice(0, 50)], Discovery(legacy_discovery_split=True))


def test_seeds_draw_and_repeat() -> None:
    draws = {seed: discovery_ids([samples()], Discovery(per_class=3, seed=seed)).tolist() for seed in range(5)}
    assert len({tuple(ids) for ids in draws.values()}) > 1
    assert discovery_ids([samples()], Discovery(per_class=3, seed=4)).tolist() == draws[4]


def test_the_draw_of_a_class_is_that_among_its_ascending_ids() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 40, 1000)
    order = rng.permutation(1000)
    rows = pa.table({"image_id": order, "split": ["train"] * 1000, "class_id": pa.array(classes[order], pa.int32())})
    naive = [
        np.random.default_rng([7, name]).choice(np.flatnonzero(classes == name), size=5, replace=False)
        for name in range(40)
    ]
    assert discovery_ids([rows], Discovery(per_class=5, seed=7)).tolist() == np.sort(np.concatenate(naive)).tolist()


def test_so_many_of_all_or_all() -> None:
    assert len(discovery_ids([samples(classes=False)], Discovery(max_images=7))) == 7
    assert discovery_ids([samples()], Discovery(max_images=None)).tolist() == list(range(50))
    assert discovery_ids([samples()], Discovery(max_images=1000)).tolist() == list(range(50))
    assert discovery_ids([samples()], Discovery(split="test", max_images=None)).tolist() == list(range(50, 60))


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(DiscoveryError, match=r"label\.images\.split = dev: no image .*\(there are: test, train\)"):
        discovery_ids([samples()], Discovery(split="dev"))
    with pytest.raises(DiscoveryError, match=r"per_class needs true classes"):
        discovery_ids([samples(classes=False)], Discovery(per_class=3))
    with pytest.raises(DiscoveryError, match="there are no samples"):
        discovery_ids([samples().slice(0, 0)], Discovery())


def test_more_images_are_those_of_fewer_and_others() -> None:
    few, more, all_but_one = (
        set(discovery_ids([samples()], Discovery(max_images=count, seed=2)).tolist()) for count in (7, 20, 49)
    )
    assert few < more < all_but_one
