"""What the report says about the choice of the images that were asked about."""

from __future__ import annotations

from dataclasses import dataclass

WAYS = {"medoids": "one image per cluster, nearest to its centre", "typical": "the most typical image of each cluster"}


@dataclass(frozen=True)
class SelectionFacts:
    """The choice of the images that were asked about, and what they cover.

    Attributes:
        how: the config's word for the way of choosing.
        rounds: 2 if the second half was chosen after the first answers.
        asked: number of images that were asked about.
        pool: number of images to choose from, those without a vector included.
        without_vector: how many of them have no vector, so that they could not be chosen.
        why: number of images per reason, by the words of the table `selected`.
        classes: number of true classes in the pool; None where none is known.
        classes_reached: how many of them an asked image shows.
        covered: estimated share of the images whose nearest asked image has their name; None: no estimate.
        doubled: the same if twice as many had been asked about; None: no estimate, or there are not so many images.
        new_names: estimated share of further images with a name that is not in the label space; None: no estimate.
    """

    how: str
    rounds: int
    asked: int
    pool: int
    without_vector: int
    why: dict[str, int]
    classes: int | None = None
    classes_reached: int | None = None
    covered: float | None = None
    doubled: float | None = None
    new_names: float | None = None

    def sentences(self) -> list[str]:
        """The facts in words."""
        said = [f"{self.asked:,} of {self.pool:,} images: {WAYS.get(self.how, self.how)}{self._reasons()}."]
        if self.without_vector:
            said.append(f"{self.without_vector:,} images have no vector, so that they could not be chosen.")
        if self.classes is not None and self.classes_reached is not None:
            said.append(f"Classes reached: {self.classes_reached:,} of {self.classes:,}.")
        if self.covered is None:
            return [*said, "What they cover is not estimated: too few of them have a name, or no other image is there."]
        said.append(
            f"For an estimated {self.covered:.0%} of the images the nearest asked image has their name. This follows "
            "from how often asked images near each other got the same name: it is no share of right names."
        )
        if self.doubled is not None:
            more = "no more" if self.doubled <= self.covered else f"{self.doubled:.0%}"
            said.append(f"With twice as many questions it would be {more}.")
        if self.new_names is not None:
            said.append(
                f"Of the next images that are asked about, some {self.new_names:.0%} would get a name that no image "
                "has yet (Good–Turing: the share of images whose name no other has); of later ones fewer."
            )
        return said

    def _reasons(self) -> str:
        """How many were chosen for another reason than the way of choosing."""
        words = {
            "uncovered": "chosen after the first answers, far from all named images",
            "disputed": "chosen after the first answers, between two names",
            "random": "drawn at random in place of near-duplicates and empty clusters",
        }
        found = [f"{self.why[reason]:,} {text}" for reason, text in words.items() if self.why.get(reason)]
        return f" ({'; '.join(found)})" if found else ""
