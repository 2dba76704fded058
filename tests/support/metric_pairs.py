"""Random pairs of a prediction and its acceptable texts, and a function that scores pairs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from backends.metrics.contract import Scores

Pairs = Sequence[tuple[str, tuple[str, ...]]]
Score = Callable[..., Scores]

_TEXT = (
    "The the a an cat Cat sat on mat, mat. dog's dog-house 1,234 3.5 50% Größe naïve 你好 мир ¿qué? e.g. U.S. "
    "I'll 'quoted' (in) the; a_b x=1 … — «да» 🙂 🙂🙂"
)
WORDS = tuple(_TEXT.split())


def random_text(random_: random.Random, longest: int = 14) -> str:
    words = random_.choices(WORDS, k=random_.randint(0, longest))
    return "".join(word + random_.choice((" ", " ", " ", "  ", "\n", "\t")) for word in words).strip()


def near(text: str, random_: random.Random) -> str:
    """Return the text with some words replaced, removed and moved."""
    words = [word for word in text.split(" ") if random_.random() > 0.15]
    words = [random_.choice(WORDS) if random_.random() < 0.15 else word for word in words]
    if words and random_.random() < 0.3:
        words.insert(random_.randrange(len(words)), words.pop())
    return " ".join(words).strip()


def random_pairs(count: int = 200) -> Pairs:
    """Return random pairs and the edge cases; some have several acceptable texts."""
    random_ = random.Random(20)
    found: list[tuple[str, tuple[str, ...]]] = []
    for _ in range(count):
        references = tuple(random_text(random_) for _ in range(random_.choice((1, 1, 1, 2, 3))))
        found.append((near(references[0], random_) if random_.random() < 0.8 else random_text(random_), references))
    long = " ".join(random_.choices(WORDS, k=900))
    edges = [
        ("", ("",)),
        ("", ("text",)),
        ("text", ("",)),
        ("...", ("!",)),
        ("the", ("a",)),
        ("你好 世界", ("你好世界",)),
        ("e\u0301", ("é",)),
        (long, (near(long, random_),)),
        ("x" * 2_000, ("x" * 1_900 + "y" * 100,)),
    ]
    return [*found, *edges]
