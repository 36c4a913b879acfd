import pytest

from fgvr.names.spelling import scientific_name


@pytest.mark.parametrize(
    ("answer", "name", "latin"),
    [
        ("The bird is a **House Sparrow** (*Passer domesticus*). It is common.", "House Sparrow", "Passer domesticus"),
        ("It is a Lotus flower, scientifically known as *Nelumbo nucifera*.", "Lotus", "Nelumbo nucifera"),
        (
            "a **Convolvulus sabatius**, commonly known as dwarf morning glory",
            "dwarf morning glory",
            "Convolvulus sabatius",
        ),
        ("Hibiscus syriacus (Malvaceae), commonly called the Rose of Sharon.", "Rose of Sharon", "Hibiscus syriacus"),
        ("This is a zonal geranium (Pelargonium x hortorum).", "zonal geranium", "Pelargonium x hortorum"),
        ("A morning glory (genus *Ipomoea*). It may be Ipomoea tricolor.", "morning glory", ""),
        ("A Tree Pipit (see above). Passer domesticus is another bird.", "Tree Pipit", ""),
        ("House Sparrow", "House Sparrow", ""),
    ],
)
def test_the_scientific_name_beside_a_name(answer: str, name: str, latin: str) -> None:
    assert scientific_name(answer, name) == latin
