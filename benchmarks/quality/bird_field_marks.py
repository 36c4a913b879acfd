"""Yes/no questions about the field marks of the hundred bird species of the benchmarks, and answers with noise.

The table `bird_field_marks.csv` (species, the keys of the questions whose answer is yes) was written from what field
guides say of an adult, of the male in breeding plumage where the sexes or seasons differ; no photo was looked at. So
it is wrong of many a photo (females, winter), as answers about a class always are. It does not say whether a question
can be answered from a photo of 64 px.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from fgvr.arrays import Floats, Ids

TABLE: Final = Path(__file__).with_name("bird_field_marks.csv")
QUESTIONS: Final = {
    "small": "Is it as small as a warbler or smaller?",
    "large": "Is it larger than a crow?",
    "cone": "Is its bill short, thick and conical?",
    "thin": "Is its bill short, thin and pointed?",
    "needle": "Is its bill long and thin like a needle?",
    "dagger": "Is its bill long, straight and strong like a dagger or a chisel?",
    "flat": "Is its bill broad and flat like a duck's?",
    "curved": "Is its bill curved downwards?",
    "hooked": "Does its bill end in a hook?",
    "crest": "Does it have a crest or tufts on its head?",
    "longtail": "Is its tail longer than its body?",
    "fork": "Is its tail deeply forked?",
    "longneck": "Does it have a long neck?",
    "water": "Is it a bird that swims or lives at the sea?",
    "trunk": "Does it cling to tree trunks?",
    "red": "Is some of its plumage or face red or pink?",
    "orange": "Is some of its plumage orange?",
    "yellow": "Is some of its plumage yellow?",
    "green": "Is some of its plumage green or olive?",
    "blue": "Is some of its plumage blue?",
    "chestnut": "Is some of its plumage chestnut or rufous?",
    "black": "Is most of its plumage black?",
    "grey": "Is most of its plumage grey?",
    "brown": "Is most of its plumage brown?",
    "white": "Is most of its plumage white?",
    "gloss": "Is its plumage glossy or iridescent?",
    "dark_wings": "Are its wings much darker than its body?",
    "wingbars": "Are there bars across its folded wing?",
    "wingpatch": "Is there a large white or bright patch on its wing?",
    "streaked_breast": "Are its breast or flanks streaked or spotted?",
    "streaked_back": "Is its back streaked?",
    "barred": "Are its back or wings finely barred or spotted?",
    "mask": "Does it have a dark mask or a dark stripe through its eye?",
    "eyering": "Is there a ring around its eye?",
    "eyebrow": "Is there a pale stripe above its eye?",
    "striped_crown": "Is its crown striped?",
    "dark_cap": "Is the top of its head much darker than its cheeks?",
    "bright_crown": "Is the top of its head red, orange or yellow?",
    "dark_head": "Is its whole head dark?",
    "dark_throat": "Is its throat dark?",
    "white_throat": "Is its throat white?",
    "yellow_throat": "Is its throat yellow?",
    "bright_throat": "Is its throat red, pink or orange?",
    "yellow_below": "Are its breast or belly yellow?",
    "white_below": "Is its belly white?",
    "dark_below": "Are its breast and belly dark?",
    "band": "Is there a band across its breast?",
    "bright_bill": "Is its bill red, orange or yellow?",
    "bright_eye": "Is its eye red, yellow or white?",
    "rump": "Is its rump paler or brighter than its back?",
}
"""The questions by their keys in the table, Q = 50."""
FLIPPED: Final = 0.1
"""Share of the answers, by image and question, that are the wrong way round."""
SURE: Final = (9.0, 1.0)
"""Beta distribution of how sure an answer is: its mean is 0.9, and one answer in five hundred is below ½."""


def truth_of(species: Sequence[str], file: Path = TABLE) -> np.ndarray:
    """Which marks each species has: bool [C, Q]; raises KeyError for an unknown species or mark."""
    with file.open(newline="", encoding="utf-8") as table:
        marks = {row["species"]: row["marks"].split() for row in csv.DictReader(table)}
    columns = {key: column for column, key in enumerate(QUESTIONS)}
    truth = np.zeros((len(species), len(QUESTIONS)), bool)
    for row, name in enumerate(species):
        truth[row, [columns[mark] for mark in marks[name]]] = True
    return truth


def noisy_answers(truth: np.ndarray, classes: Ids, seed: int) -> Floats:
    """What a labeller with noise would answer about images: p(yes), float32 [N, Q].

    Args:
        truth: bool [C, Q], the right answer by class.
        classes: int64 [N], the images' classes.
        seed: draws which answers are wrong (`FLIPPED`) and how sure each is (`SURE`), both by image and question.
    """
    rng = np.random.default_rng((seed, 11))
    shape = (len(classes), truth.shape[1])
    said = truth[classes] ^ (rng.random(shape) < FLIPPED)
    sure = rng.beta(*SURE, shape)
    return np.where(said, sure, 1 - sure).astype(np.float32)
