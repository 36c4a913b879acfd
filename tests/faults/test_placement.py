"""Where engines are put on a cluster with GPUs. The GPUs are only counted: Ray places by what its nodes offer."""

from collections import Counter
from collections.abc import Iterator

import pytest

from cluster.local_cluster import LocalCluster, local_cluster
from tests.faults.running import Place, check_hashes, last_words

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cards() -> Iterator[LocalCluster]:
    """A node with four H100 and one with four L4."""
    offers = [["--num-gpus=4", f'--resources={{"accelerator_type:{kind}": 1}}'] for kind in ("H100", "L4")]
    with local_cluster(workers=2, cpus=4, offers=offers) as found:
        yield found


def placed(place: Place, cards: LocalCluster, **job: object) -> list[tuple[str, list[str]]]:
    """Node and GPUs of each worker of a run."""
    own = Place(place.folder, place.but(cpus=0.5, **job).job, cards, place.tracking)
    own.run(limits={"cluster.limits.start_minutes": "2"})  # four begin together, on as many cores as there are
    check_hashes(own.table())
    pairs = [line.split() for line in own.diary.lines("gpus")]
    return [(node, gpus.split(",")) for node, gpus in pairs]


def test_engines_of_two_gpus_get_two_of_one_node_each(place: Place, cards: LocalCluster, seen) -> None:
    found = placed(place, cards, gpus=2, accelerator="H100", workers=2)
    assert len({node for node, _ in found}) == 1
    assert sorted(gpu for _, gpus in found for gpu in gpus) == ["0", "1", "2", "3"]
    seen("(placement) two engines of two GPUs, accelerator_type", "both on the node with that card, GPUs disjoint")


def test_half_gpus_share_whole_ones(place: Place, cards: LocalCluster, seen) -> None:
    found = placed(place, cards, gpus=0.5, accelerator="L4", workers=4)
    assert len({node for node, _ in found}) == 1
    assert all(len(gpus) == 1 for _, gpus in found)
    assert set(Counter(gpus[0] for _, gpus in found).values()) == {2}
    seen("(placement) four engines of half a GPU", "two on each of two GPUs of one node")


def test_a_card_that_no_node_has(place: Place, cards: LocalCluster, seen) -> None:
    own = Place(place.folder, place.but(gpus=1, accelerator="B200").job, cards, place.tracking)
    text = own.run(ends=1, limits={"cluster.limits.place_minutes": "0.3"})
    assert "accelerator_type = B200: no node has one" in text
    assert "an accelerator B200" in last_words(text)
    seen("(placement) an accelerator_type that no node has", "stops after place_minutes and names it")
