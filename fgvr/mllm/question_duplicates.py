"""Near-duplicate aspect questions: of one question in different words, the better ranked one stays.

Text embeddings alone would do harm: for all-MiniLM-L6-v2 "Does the bird have a long beak?" is closer to "… a short
beak?" (0.96) than to "Is the beak long?" (0.85). So two questions must first agree in their words, and only then do the
embeddings decide:

- the same content words: always duplicates ("Are the legs yellow?", "Does the bird have yellow legs?"), except
  that from four words on they must have the same order ("a red head and a black body", "a black head and a red body");
- one has all words of the other and more: duplicates above a cosine threshold. In 48 hand-written pairs, the highest
  cosine of such a pair with two meanings is 0.931 ("a long tail", "a long forked tail"); pairs of one meaning above it
  have 0.95 or more ("Is the car red?", "Is the color of the car red?").

A replaced word (long, short), another number, a comparison in the other direction and a negation always make another
question, however close the embeddings are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fgvr.names.merging import NameEncoder, name_words

# In the word forms of name_words: singular, with "doe" for does.
_FUNCTION_WORDS = frozenset(
    name_words(
        "a an the is are was were do does did has have had can could will would should be been being there it its this"
        " that these those of on in at to for by around any some image photo picture photograph visible visibly"
        " noticeable noticeably clearly clear distinct distinctly primarily mostly mainly predominantly largely"
    )
)
_NAMES_OF_ALL = frozenset(name_words("object subject animal item thing"))
_RELATIONS = frozenset(
    name_words(
        "than above below under over behind before after with without between beneath inside outside not no never or"
        " more less fewer least most only"
    )
)


def drop_duplicates(
    questions: Sequence[str], subject: str, load_encoder: Callable[[], NameEncoder], similarity: float
) -> tuple[list[str], dict[str, str]]:
    """The questions that stay, and for each dropped one the earlier question that it repeats.

    Args:
        questions: distinct, best first.
        subject: what the classes are ("birds"): these words carry no information in a question about them.
        load_encoder: loads the text embeddings; called only if a pair needs them.
        similarity: minimum cosine of questions where one has all words of the other and more; at 1 these are kept.
    """
    ignored = _NAMES_OF_ALL | frozenset(name_words(subject))
    words = [_meaning(question, ignored) for question in questions]
    near = _near(questions, words, load_encoder, similarity) if similarity < 1 else set()
    kept: list[int] = []
    repeats: dict[str, str] = {}
    for place, question in enumerate(questions):
        earlier = next((k for k in kept if _same(words[k], words[place]) or (k, place) in near), None)
        if earlier is None:
            kept.append(place)
        else:
            repeats[question] = questions[earlier]
    return [questions[place] for place in kept], repeats


def _meaning(question: str, ignored: frozenset[str]) -> tuple[str, ...]:
    """The words that distinguish questions, in order, in the singular."""
    # spelling_key would join "bird's" to a word of its own.
    words = name_words(question.replace("'s ", " ").replace("’s ", " ").replace("-", " "))
    return tuple(word for word in words if word not in _FUNCTION_WORDS and word not in ignored)


def _same(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """The same words; in the same order if one of them is relational ("black with white spots")."""
    if not one or sorted(one) != sorted(other):
        return False
    return one == other or not (_RELATIONS & set(one) or _rearranged(one, other))


def _rearranged(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether four or more common words are in different order: two colours may be swapped, for example."""
    common = set(one) & set(other)
    kept, theirs = ([word for word in words if word in common] for words in (one, other))
    return len(kept) > 3 and kept != theirs


def _near(
    questions: Sequence[str],
    words: Sequence[tuple[str, ...]],
    load_encoder: Callable[[], NameEncoder],
    similarity: float,
) -> set[tuple[int, int]]:
    """Pairs in which one question has all words of the other and more, and whose embeddings are close."""
    pairs = [
        (one, other)
        for other in range(len(words))
        for one in range(other)
        if _with_more_words(words[one], words[other])
    ]
    if not pairs:
        return set()
    vectors = load_encoder().encode(questions)
    return {(one, other) for one, other in pairs if float(vectors[one] @ vectors[other]) >= similarity}


def _with_more_words(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    short, long = sorted((frozenset(one), frozenset(other)), key=len)
    added = long - short
    if not short or not short < long or added & _RELATIONS:
        return False
    if _RELATIONS & short:
        return False  # the relations between its words may have changed
    if _rearranged(one, other):
        return False
    return not any(letter.isdigit() for word in added for letter in word)
