"""What spellings share and what tells names apart; the alias pairs of whole names are in test_merging.py."""

import itertools
import random

import pytest

from fgvr.names.spelling import spelling_key


@pytest.mark.parametrize(
    "spellings",
    [
        ("Blue-winged  Teal.", "blue winged teal", "BLUE‑WINGED TEAL", "“Blue-winged Teal”", "*Blue-winged* teal"),
        ("Swainson's Hawk", "Swainsons hawk", "Swainson’s Hawk", "SWAINSON`S HAWK"),
        ("Crème brûlée", "creme brulee", "Cre\u0300me Bru\u0302le\u0301e"),
        ("Mazda CX-5", "Mazda CX 5", "mazda cx–5"),
        ("Airbus A320-200", "Airbus A320 200", "Airbus A320 – 200"),
        ("2.5 l", "2,5 L", "２.５ l", '"2.5 l"'),
        ("4 × 4 truck", "4x4 truck", "4*4 Truck", "4 X 4 truck"),
        ("¾ inch", "3/4 inch", "3 / 4 inch", "3⁄4 inch"),
        ("2¼ turns", "2 1/4 turns", "2-1/4 turns"),
        ("12,000 BTU", "12000 btu"),
        ("C# in Depth", "c♯ in depth", "C # in depth"),
        ("7% beer", "7 % Beer", "７％ beer"),
        ("−2 dioptres", "-2 dioptres", "–2 dioptres"),
        ('9" plate', "9″ plate", "9'' plate", "9” plate"),
        ("25 °C", "25°C", "25 ℃"),
        ("R&D lab", "r & d lab"),
        ("1960's chair", "1960s chair"),
        ("Duplo™ brick", "Duplo brick", "Duplo® brick"),
        ("soft\u00adshell", "softshell"),
        ("🌶\ufe0f Pepper", "pepper"),
        ("# Robin", "robin", "- Robin", "Robin -"),
    ],
)
def test_spellings_of_one_name(spellings: tuple[str, ...]) -> None:
    assert {spelling_key(name) for name in spellings} == {spelling_key(spellings[0])}
    assert spelling_key(spellings[0])


@pytest.mark.parametrize(
    "names",
    [
        ("2.5 l", "25 l", "2 5 l", "2/5 l", "2:5 l", "2x5 l", ".25 l"),
        ("3/8", "38", "3.8", "3 8"),
        ("10² W", "102 W", "10 W"),
        ("7½", "71/2", "7 1", "7.5"),
        ("0,125 l", "0125 l", "125 l"),
        ("C", "C#", "C++", "C+", "C-"),
        ("J", "J#", "J++"),
        ("AB+", "AB", "AB-"),
        ("4", "-4", "+4", "4%", "4°", '4"', "4'", "$4", "€4", "#4", "<4", "4×"),
        ("Note 8", "Note 8+", "Note 8%"),
        ("5 mW", "5 MW", "5 kW"),
        ("3 Å", "3 A"),
        ("9 m/s", "9 ms", "9 m"),
        ("H&M", "HM"),
        (".NET", "Net"),
        ("Duck ♀", "Duck ♂", "Duck"),
        ("٢٫٥ l", "٢٥ l"),
    ],
)
def test_other_numbers_and_signs(names: tuple[str, ...]) -> None:
    assert len({spelling_key(name) for name in names}) == len(names)


def test_any_two_decimals_ratios_and_integers_have_keys_of_their_own() -> None:
    draw = random.Random(0)
    digits = ["".join(draw.choices("0123456789", k=draw.randint(1, 3))) for _ in range(12)]
    forms = {f"{a}{mark}{b}" for a, b in itertools.product(digits, digits) for mark in ("", ".", "/", ":", "x", " ")}
    keys = {spelling_key(f"{form} unit") for form in forms}
    assert len(keys) == len(forms)


@pytest.mark.parametrize("text", ["", " \n", "...", "+", "%", "“”", "🙂", "-"])
def test_no_name_has_no_key(text: str) -> None:
    assert spelling_key(text) == ""


def test_a_key_is_its_own_key() -> None:
    for name in ("Swainson's Hawk", "2½ × 4 cm", "C# 7.3", "-2.5 dioptres", '9" plate', "R & D", "5 m/s", "Note 8+"):
        assert spelling_key(spelling_key(name)) == spelling_key(name)
