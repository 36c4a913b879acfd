import numpy as np

from fgvr.demo.species import GENERA, OPTIONS, SPECIES, Attributes, difference, random_attributes, siblings


def test_there_are_thirty_six_species_in_six_genera_with_dense_ids():
    assert len(SPECIES) == 36
    assert [species.class_id for species in SPECIES] == list(range(36))
    assert len({species.name for species in SPECIES}) == 36
    assert {species.genus for species in SPECIES} == {genus.name for genus in GENERA}
    assert all(2 <= len(species.name.split()) <= 3 and species.name.endswith(species.genus) for species in SPECIES)


def test_species_of_a_genus_differ_in_one_to_three_attributes_and_no_two_species_look_alike():
    for species in SPECIES:
        for sibling in siblings(species):
            assert 1 <= len(difference(species.attributes, sibling.attributes)) <= 3
    assert len({species.attributes for species in SPECIES}) == len(SPECIES)


def test_a_species_by_hand():
    by_name = {species.name: species.attributes for species in SPECIES}
    finch = by_name["Crested Azure Finch"]
    assert (finch.body, finch.crest, finch.mask, finch.beak, finch.tail_tip) == ("azure", True, False, "orange", True)
    assert difference(finch, by_name["Masked Crimson Finch"]) == ("body", "crest", "mask")
    assert difference(by_name["Golden Warbler"], by_name["Spectacled Golden Warbler"]) == ("eye_ring",)


def test_every_look_of_a_species_is_among_the_options():
    for species in SPECIES:
        assert all(getattr(species.attributes, name) in values for name, values in OPTIONS.items())
    assert len(OPTIONS) == 22
    assert list(OPTIONS) == list(Attributes.__dataclass_fields__)


def test_random_birds_take_every_value_about_equally_often():
    rng = np.random.default_rng(0)
    birds = [random_attributes(rng) for _ in range(2000)]
    for name, values in OPTIONS.items():
        counts = [sum(getattr(bird, name) == value for bird in birds) for value in values]
        assert min(counts) > 0.75 * 2000 / len(values)
