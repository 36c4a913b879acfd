"""Which names may mean one thing, on hand-worked cases and against comparing all with all."""

import itertools
import random

import pytest

from fgvr.names.merging import NameUse, in_other_order, name_words, of_one_species, with_a_slip, with_more_words


def words(*names: str) -> list[tuple[str, ...]]:
    return [name_words(name) for name in names]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Calla Lilies", "calla lily"),
        ("Finches", "Finch"),
        ("Town & Country", "Town and Country"),
        ("Grey Catbird", "Gray Catbirds"),
        ("Mangoes", "Mango"),
    ],
)
def test_plurals_and_and_grey_are_made_alike(one: str, other: str) -> None:
    assert name_words(one) == name_words(other)


@pytest.mark.parametrize("name", ["Lexus", "Iris", "Grass", "Lotus"])
def test_what_only_looks_like_a_plural_is_kept(name: str) -> None:
    assert name_words(name) == (name.lower(),)


def test_the_same_words_in_another_order() -> None:
    assert list(in_other_order(words("2012 Fiat 500", "Fiat 500 2012", "Fiat 500"))) == [(0, 1)]


@pytest.mark.parametrize(
    ("one", "other", "slip"),
    [
        ("Dickcissel", "Dicksissel", True),
        ("White-eyed Vireo", "White-eye Vireo", False),  # "eye" is too short a word
        ("Barberton Daisy", "Barbeton Daisy", True),
        ("Eastern Meadowlark", "Western Meadowlark", False),
        ("Red-winged Finch", "White-winged Finch", False),
        ("Barn Swallow", "Bark Swallow", False),
        ("Marsh Tern", "Harsh Tern", False),  # the first letter
        ("BMW 3 Series", "BMW 5 Series", False),
        ("Boeing 737-200", "Boeing 737-300", False),
        ("LP5704 Roadster", "LP5604 Roadster", False),
        ("Dickcissel Finch", "Dicksissel Firch", False),  # two slips
    ],
)
def test_a_slip_is_one_letter_of_a_long_word(one: str, other: str, slip: bool) -> None:
    assert bool(list(with_a_slip(words(one, other)))) is slip


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (("Mallard", "Mallard duck"), [(0, 1)]),
        (("Male Mallard", "Mallard"), [(0, 1)]),
        (("Warbler", "Yellow Warbler", "Pine Warbler"), []),  # a kind, not an alias
        (("Chevrolet Silverado", "Chevrolet Silverado 1500"), []),  # a number
        (("Chevrolet Silverado 1500", "Chevrolet Silverado 2500"), []),
        (("Red-winged Blackbird", "White-winged Blackbird"), []),
        (("Range Rover", "Land Rover Range Rover"), [(0, 1)]),
        (("!?", "Finch"), []),
    ],
)
def test_more_words_are_an_addition_unless_they_tell_kinds_apart(
    names: tuple[str, ...], pairs: list[tuple[int, int]]
) -> None:
    assert list(with_more_words(words(*names))) == pairs


def test_names_with_one_latin_name() -> None:
    names = [
        NameUse("Helianthus annuus", 4),
        NameUse("sunflower", 3, "Helianthus annuus"),
        NameUse("Tree Wren", 2, "Troglodytes hiemalis"),
        NameUse("Winter Wren", 2, "Troglodytes hiemalis"),
        NameUse("Broccoli", 1, "Brassica oleracea"),
        NameUse("Cauliflower", 1, "Brassica oleracea"),  # no word in common
        *[NameUse(f"{name} Apple", 1, "Malus domestica") for name in ("Fuji", "Gala", "Braeburn", "Jazz")],  # varieties
    ]
    assert list(of_one_species(names)) == [(0, 1), (2, 3)]


def test_slips_and_additions_are_those_that_comparing_all_with_all_finds() -> None:
    draw = random.Random(0)
    parts = ["azure", "azurre", "azre", "golden", "goldan", "finch", "finck", "tern", "terns", "m3", "m4", "gull"]
    names = words(*sorted({" ".join(draw.choices(parts, k=draw.randint(1, 3))) for _ in range(150)}))

    def letters_apart(one: str, other: str) -> int:
        if not one or not other:
            return len(one) + len(other)
        return min(
            letters_apart(one[1:], other[1:]) + (one[0] != other[0]),
            letters_apart(one[1:], other) + 1,
            letters_apart(one, other[1:]) + 1,
        )

    slips, added = set(), set()
    for one, other in itertools.combinations(range(len(names)), 2):
        if len(names[one]) == len(names[other]):
            changed = [(a, b) for a, b in zip(names[one], names[other], strict=True) if a != b]
            if len(changed) == 1:
                ((a, b),) = changed
                if min(len(a), len(b)) >= 5 and a[0] == b[0] and letters_apart(a, b) == 1:
                    slips.add((one, other))
    for short, name in enumerate(names):
        longer = [p for p, other in enumerate(names) if len(other) > len(name) and set(name) <= set(other)]
        if len(longer) == 1 and not {"m3", "m4"} & (set(names[longer[0]]) - set(name)):
            added.add((min(short, longer[0]), max(short, longer[0])))
    assert set(with_a_slip(names)) == slips
    assert len(slips) > 5
    assert set(with_more_words(names)) == added
    assert added
