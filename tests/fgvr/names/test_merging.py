"""Which aliases become one label, with embeddings set by hand."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from torchvision.models._meta import _IMAGENET_CATEGORIES

from fgvr.metrics.semantic import SentenceBert
from fgvr.names.merging import NameUse, merge_aliases


class Angles:
    """Names are unit vectors at given angles (degrees), those not given at 0."""

    name = "by hand"

    def __init__(self, **angles: float) -> None:
        self.angles = {name.replace("_", " "): angle for name, angle in angles.items()}
        self.loaded = 0

    def __call__(self) -> "Angles":
        self.loaded += 1
        return self

    def encode(self, names: Sequence[str]) -> np.ndarray:
        radians = np.radians([self.angles.get(name, 0.0) for name in names])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_the_more_frequent_name_stands_for_both() -> None:
    names = [NameUse("Mallard duck", 5), NameUse("Mallard", 3), NameUse("Gull", 9)]
    assert merge_aliases(names, Angles(), 0.9) == {"Mallard": "Mallard duck"}


def test_of_equally_frequent_names_the_first_in_the_alphabet() -> None:
    assert merge_aliases([NameUse("b a finch", 1), NameUse("a b finch", 1)], Angles(), 0.9) == {
        "b a finch": "a b finch"
    }


def test_the_cosine_decides_among_pairs_that_may_merge() -> None:
    names = [NameUse("Mallard", 3), NameUse("Mallard duck", 1)]
    assert merge_aliases(names, Angles(mallard_duck=25), 0.9)  # cos 25° = 0.906
    assert not merge_aliases(names, Angles(mallard_duck=26), 0.9)  # 0.899


def test_near_embeddings_alone_merge_nothing_and_no_model_is_loaded() -> None:
    model = Angles()  # all names at one place
    names = [NameUse("Eastern Meadowlark", 3), NameUse("Western Meadowlark", 1), NameUse("BMW 3 Series", 3)]
    assert merge_aliases([*names, NameUse("BMW 5 Series", 1), NameUse("rock dove", 1)], model, 0.0) == {}
    assert model.loaded == 0


def test_spellings_and_latin_names_need_no_embedding() -> None:
    model = Angles()
    names = [
        NameUse("Sweet Peas", 1),
        NameUse("sweet pea", 4),
        NameUse("sweetpea", 2),
        NameUse("Lotus", 3, "Nelumbo nucifera"),
        NameUse("Nelumbo nucifera", 1),
    ]
    assert merge_aliases(names, model, 1.0) == {
        "Sweet Peas": "sweet pea",
        "sweetpea": "sweet pea",
        "Nelumbo nucifera": "Lotus",
    }
    assert model.loaded == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.75 l carafe", "75 l carafe"),
        ("7.5 l carafe", "75 l carafe"),
        ("3/4 inch valve", "34 inch valve"),
        ("1½ inch pipe", "11/2 inch pipe"),
        ("Makita 5.0 Ah", "Makita 50 Ah"),
        ("1:43 model car", "143 model car"),
        ("6-12 month romper", "612 month romper"),
        ("2x6 plank", "26 plank"),
        ("Airbus 320-200", "Airbus 320200"),
        ("F# manual", "F manual"),
        ("C++ manual", "C manual"),
        ("C++ manual", "C# manual"),
        ("Vitamin A+", "Vitamin A"),
        ("3% peroxide", "3 peroxide"),
        ("-3 lens", "3 lens"),
        ("-3 lens", "+3 lens"),
        ('12" ruler', "12' ruler"),
        ('12" ruler', "12 ruler"),
        ("24 V relay", "24 A relay"),
        ("5 mW laser", "5 MW laser"),
        ("9 m/s anemometer", "9 ms anemometer"),
        ("$5 voucher", "€5 voucher"),
        ("Router 6E", "Router 6"),
        ("Kawasaki 900S", "Kawasaki 900"),
        ("10 x 25 binoculars", "25 x 10 binoculars"),
        ("2.1 l 1.2 kg kettle", "1.2 l 2.1 kg kettle"),
        ("12 V 5 A charger", "5 V 12 A charger"),
        ("5 V 12 A charger", "5 A 12 V charger"),
        ("Rocky II", "Rocky III"),
        ("Rocky", "Rocky II"),
        ("Sixth Avenue", "Sixty Avenue"),
        ("Decimetre rule", "Decametre rule"),
        ("Cola", "Cola Zero"),
        ("Rice", "Rice 5 kg"),
        ("Rice 5", "Rice 5 kg"),
        ("Milk", "Milk 2%"),
    ],
)
def test_another_number_sign_or_unit_is_another_thing_however_near(one: str, other: str) -> None:
    latin = "Testus numerus"  # even where the answers give both the same
    assert merge_aliases([NameUse(one, 2), NameUse(other, 1)], Angles(), -1.0) == {}
    if any(letter.isdigit() for letter in one + other):
        assert merge_aliases([NameUse(one, 2, latin), NameUse(other, 1, latin)], Angles(), 1.0) == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ford F-150", "Ford F150"),
        ("Ford F-150", "Ford F 150"),
        ("Airbus 320-200", "Airbus 320 200"),
        ("1,5 l carafe", "1.5 l carafe"),
        ("1.5l carafe", "1.5 l carafe"),
        ("2 × 6 plank", "2x6 plank"),
        ("½ inch pipe", "1/2 inch pipe"),
        ("20,000 mAh power bank", "20000 mAh power bank"),
        ("30 °C bath", "30°C bath"),
        ("Grey Wagtails", "gray wagtail"),
        ("Salt & Pepper", "Salt and Pepper"),
        ("Goldenrod", "Golden Rod"),
    ],
)
def test_ways_to_write_one_name_are_one(one: str, other: str) -> None:
    assert merge_aliases([NameUse(one, 2), NameUse(other, 1)], Angles(), 1.0) == {other: one}


def test_and_is_left_out_between_words_only() -> None:
    assert merge_aliases([NameUse("AND gate", 2), NameUse("gate", 1)], Angles(), 1.0) == {}


def test_of_a_thousand_public_class_names_those_of_one_spelling_are_found_and_no_others() -> None:
    names = sorted(set(_IMAGENET_CATEGORIES))
    assert len(names) == 1000
    alike = {"cardigan": "Cardigan", "sunglasses": "sunglass"}  # a dog and a jacket differ in case alone
    assert merge_aliases([NameUse(name, 1) for name in names], Angles(), 1.0) == alike


def test_a_star_not_a_chain() -> None:
    # "azurre finch" is a slip away from "azure finch", "azurree finch" a slip away from that, but two from the first.
    names = [
        NameUse("azure finch", 4),
        NameUse("azurre finch", 3),
        NameUse("azurree finch", 2),
        NameUse("finch azure", 1),
    ]
    assert merge_aliases(names, Angles(), 0.9) == {"azurre finch": "azure finch", "finch azure": "azure finch"}


def test_a_spelling_of_an_alias_goes_where_the_alias_goes() -> None:
    names = [NameUse("Dickcissel", 5), NameUse("Dicksissel", 2), NameUse("Dicksissels", 1)]
    assert merge_aliases(names, Angles(), 0.9) == {"Dicksissel": "Dickcissel", "Dicksissels": "Dickcissel"}


def test_an_alias_of_two_joins_the_nearer() -> None:
    names = [NameUse("Azured Finch", 9), NameUse("Azurea Finch", 8), NameUse("Azure Finch", 1)]
    near_second = Angles(azured_finch=20, azurea_finch=5)
    # Azured and Azurea differ by a letter, too; at 15° they are one name, at 40° two.
    assert merge_aliases(names, near_second, 0.9)["Azurea Finch"] == "Azured Finch"
    apart = Angles(azured_finch=-25, azurea_finch=15)
    assert merge_aliases(names, apart, 0.9) == {"Azure Finch": "Azurea Finch"}


def test_the_order_of_the_names_does_not_matter() -> None:
    draw = random.Random(0)
    parts = ["azure", "azurre", "golden", "goldan", "finch", "finches", "tern", "m3"]
    names = sorted({" ".join(draw.choices(parts, k=draw.randint(1, 3))) for _ in range(200)})
    uses = [NameUse(name, draw.randint(1, 5)) for name in names]
    first = merge_aliases(uses, Angles(), 0.5)
    assert first
    assert merge_aliases(draw.sample(uses, len(uses)), Angles(), 0.5) == first
    assert not set(first) & set(first.values())  # nothing is merged into an alias


def test_nothing_and_one_name() -> None:
    assert merge_aliases([], Angles(), 0.9) == {}
    assert merge_aliases([NameUse("finch", 1)], Angles(), 0.9) == {}


def test_twenty_thousand_names_take_seconds() -> None:
    letters = "bcdfghklmp"  # words of doubled letters, so that none is a slip away from another
    words = ["".join(2 * letters[int(digit)] for digit in f"{number:03}") for number in range(300)]
    names = [f"{a} {b}" for a in words[:200] for b in words[200:]]
    aliases = [f"{b} {a}" for a, b in (name.split() for name in names[:500])]
    uses = [*(NameUse(name, 2) for name in names), *(NameUse(name, 1) for name in aliases)]
    assert set(merge_aliases(uses, Angles(), 0.9)) == set(aliases)


@pytest.mark.slow
def test_with_a_real_model() -> None:
    names = [NameUse("Lotus flower", 2), NameUse("Lotus", 1), NameUse("Volvo 240", 1), NameUse("Volvo 240 series", 3)]
    assert merge_aliases(names, SentenceBert, 0.8) == {"Lotus": "Lotus flower", "Volvo 240": "Volvo 240 series"}
    assert merge_aliases(names, SentenceBert, 0.9) == {"Volvo 240": "Volvo 240 series"}


@pytest.mark.parametrize("names", [["翠鸟", "翠鳥"], ["Зимородок", "Зимородки"], ["a " * 199 + "b", "a " * 199 + "c"]])
def test_other_scripts_and_long_names_are_left_alone(names: list[str]) -> None:
    assert merge_aliases([NameUse(name, 1) for name in names], Angles(), 0.0) == {}
