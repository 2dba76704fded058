"""The words of `builtin:nli`: people, things, places, acts and qualities, divided among the splits.

Bars cut every list in three, ` training | validation | test `, and no split uses the words of
another. The names of the kinds belong to all splits. `builtin:tiny-lm` reads text about all of
these words in its pre-training, but never a labelled pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Split: TypeAlias = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")

_NAMES = """
    Anna Bruno Carla David Elena Felix Greta Hugo Ida Jonas Klara Leon
    | Alice Boris Celia Dario Edith Frank | Agnes Bela Cora Dennis Erika Georg"""

_THINGS = {
    "fruit": "apple pear plum cherry | lemon mango | peach fig",
    "flower": "rose tulip daisy lily | poppy violet | carnation dahlia",
    "tool": "hammer saw drill wrench | chisel rake | shovel axe",
    "vehicle": "car bus truck tractor | van bicycle | lorry tram",
    "instrument": "violin drum flute piano | guitar harp | cello banjo",
    "garment": "coat shirt scarf skirt | jacket glove | hat sock",
    "animal": "dog cat horse goat | sheep rabbit | pig duck",
    "toy": "doll kite marble puppet | balloon rattle | puzzle robot",
}

_PLACES = {
    "in a house": """
        in_the_kitchen in_the_bedroom in_the_attic | in_the_hallway in_the_bathroom | in_the_pantry in_the_nursery""",
    "near the water": """
        by_the_river by_the_lake by_the_sea | by_the_canal by_the_stream | by_the_bay by_the_well""",
    "in a shop": """
        at_the_bakery at_the_pharmacy at_the_bookshop | at_the_grocery at_the_florist
        | at_the_stationer at_the_tailor""",
    "outdoors": """
        in_the_meadow in_the_forest in_the_orchard | in_the_pasture in_the_valley | in_the_field in_the_wood""",
}

_ACTS = """
    buying/selling fixing/breaking hiding/showing pushing/pulling cleaning/soiling
    | lifting/lowering finding/losing praising/mocking | heating/cooling keeping/discarding sending/receiving"""

_QUALITIES = """
    big/small clean/dirty cheap/expensive wet/dry new/old
    | hot/cold smooth/rough heavy/light | thick/thin hard/soft bright/dark"""

_PATTERNS = "plain | place_first | there_is"


@dataclass(frozen=True)
class Words:
    """The words of one or several splits. `opposite` maps each act and quality to its opposite."""

    names: tuple[str, ...]
    things: Mapping[str, tuple[str, ...]]
    places: Mapping[str, tuple[str, ...]]
    acts: tuple[str, ...]
    qualities: tuple[str, ...]
    opposite: Mapping[str, str]
    patterns: tuple[str, ...]


def words_of(*splits: Split) -> Words:
    """Return the words of these splits together."""

    def chosen(text: str) -> tuple[str, ...]:
        parts = text.split("|")
        return tuple(word.replace("_", " ") for split in splits for word in parts[SPLITS.index(split)].split())

    acts = [tuple(pair.split("/")) for pair in chosen(_ACTS)]
    qualities = [tuple(pair.split("/")) for pair in chosen(_QUALITIES)]
    pairs = [*acts, *qualities]
    return Words(
        names=chosen(_NAMES),
        things={kind: chosen(members) for kind, members in _THINGS.items()},
        places={kind: chosen(members) for kind, members in _PLACES.items()},
        acts=tuple(act for pair in acts for act in pair),
        qualities=tuple(quality for pair in qualities for quality in pair),
        opposite={one: other for pair in pairs for one, other in (pair, pair[::-1])},
        patterns=tuple(pattern.replace(" ", "_") for pattern in chosen(_PATTERNS)),
    )
