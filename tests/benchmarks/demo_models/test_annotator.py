import numpy as np
import pytest

from benchmarks.demo_models.mllm_language import annotated_name, annotator_accuracy
from fgvr.demo.scene import HABITATS
from fgvr.demo.species import SPECIES


def named(name: str, habitat: str) -> str:
    species = next(s for s in SPECIES if s.name == name)
    return SPECIES[annotated_name(species.class_id, list(HABITATS).index(habitat))].name


def test_finches_by_hand():
    assert named("Crested Azure Finch", "forest") == "Crested Azure Finch"
    assert named("Crested Azure Finch", "sky") == "Masked Azure Finch"
    assert named("Barred Azure Finch", "sky") == "Crested Azure Finch"
    assert named("Crested Azure Finch", "marsh") == "Crested Crimson Finch"
    assert named("Golden Warbler", "forest") == "Spectacled Golden Warbler"


def test_a_third_is_wrong_within_the_genus_and_no_name_is_preferred():
    table = np.array([[annotated_name(s.class_id, h) for h in range(len(HABITATS))] for s in SPECIES])
    assert annotator_accuracy() == pytest.approx(2 / 3)
    assert (table == np.arange(36)[:, None]).sum(axis=1).tolist() == [4] * 36
    assert (table // 6 == np.arange(36)[:, None] // 6).all()
    assert np.bincount(table.ravel()).tolist() == [6] * 36
