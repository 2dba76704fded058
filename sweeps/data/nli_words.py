"""The words of `builtin:nli`: a small world of people, things, places, seasons and opposites, and who may use which.

Every list is cut in three by bars, ` training | validation | test `: no part is used by another split. What belongs to
all splits (the names of kinds, function words) stands outside of the lists. The language model `builtin:tiny-lm` reads
text about all of these words in its pre-training, never a labelled pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Split: TypeAlias = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")

Opposition: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
"""Two sides; the words of one side mean the same, and exclude those of the other."""

NAMES = """
    Anna Bruno Carla David Elena Felix Greta Hugo Ida Jonas Klara Leon Marta Nils Olga Paul
    | Alice Boris Celia Dario Edith Frank Helga Ivan Judit Karl
    | Agnes Bela Cora Dennis Erika Georg Hanna Igor Julia Kevin"""

PEOPLE = {
    "artist": "painter sculptor poet | novelist illustrator | engraver potter",
    "musician": "pianist drummer violinist | flautist cellist | trumpeter guitarist",
    "athlete": "swimmer boxer runner | wrestler gymnast | skater rower",
    "doctor": "surgeon dentist cardiologist | oculist neurologist | radiologist paediatrician",
    "soldier": "captain sergeant corporal | colonel lieutenant | general private",
}

THINGS = {
    "fruit": "apple pear plum cherry | lemon mango melon | peach fig banana",
    "flower": "rose tulip daisy lily | poppy violet orchid | carnation jasmine dahlia",
    "tool": "hammer saw drill wrench | chisel rake spade | shovel axe file",
    "vehicle": "car bus truck tractor | van bicycle taxi | lorry scooter tram",
    "instrument": "violin drum flute piano | guitar harp trumpet | cello clarinet banjo",
    "garment": "coat shirt scarf skirt | jacket sweater glove | hat dress sock",
    "animal": "dog cat horse goat | sheep rabbit cow | pig donkey duck",
    "toy": "doll kite marble puppet | balloon top rattle | puzzle ball robot",
}

PLACES = {
    "in a house": """
        in the kitchen, in the bedroom, in the attic
        | in the hallway, in the bathroom
        | in the pantry, in the nursery""",
    "near the water": "by the river, by the lake, by the sea | by the canal, by the stream | by the bay, by the well",
    "in a shop": """
        at the bakery, at the pharmacy, at the bookshop
        | at the grocery, at the florist
        | at the stationer, at the tailor""",
    "in the country": """
        in the meadow, in the forest, in the orchard
        | in the pasture, in the valley
        | in the field, in the wood""",
}

SEASONS = {
    "in spring": "in March | in April | in May",
    "in summer": "in June | in July | in August",
    "in autumn": "in September | in October | in November",
    "in winter": "in December | in January | in February",
}

NUMBERS = {"some": "two three four five | six seven eight | nine ten eleven"}

QUALITIES = """
    big large / small little; clean spotless / dirty filthy; expensive costly / cheap inexpensive;
    wet soaked / dry parched; beautiful lovely / ugly hideous; common ordinary / rare unusual
    | old ancient / new modern; hot warm / cold chilly; smooth even / rough uneven; broken damaged / intact whole
    | thick broad / thin narrow; precious valuable / worthless useless; hard firm / soft tender;
    heavy weighty / light weightless"""

ACTS = """
    buying:bought purchasing:purchased / selling:sold vending:vended;
    fixing:fixed repairing:repaired / breaking:broken smashing:smashed;
    hiding:hidden concealing:concealed / showing:shown displaying:displayed;
    pushing:pushed shoving:shoved / pulling:pulled dragging:dragged;
    cleaning:cleaned washing:washed / soiling:soiled staining:stained
    | lifting:lifted raising:raised / lowering:lowered dropping:dropped;
    finding:found discovering:discovered / losing:lost misplacing:misplaced;
    praising:praised admiring:admired / mocking:mocked despising:despised
    | heating:heated warming:warmed / cooling:cooled chilling:chilled;
    keeping:kept saving:saved / discarding:discarded scrapping:scrapped;
    sending:sent mailing:mailed / receiving:received getting:got"""

PLAIN_ACTS = """
    watching:watched holding:held drawing:drawn touching:touched describing:described
    | guarding:guarded measuring:measured photographing:photographed
    | weighing:weighed sketching:sketched inspecting:inspected"""
"""Acts without an opposite: they say nothing about any other act."""

COMPARISONS = """
    taller / shorter; older / younger; richer / poorer; stronger / weaker; happier / sadder; cleverer / sillier
    | faster / slower; louder / quieter; braver / shyer; kinder / crueller
    | heavier / lighter; busier / lazier; politer / ruder; calmer / wilder"""

PATTERNS = "time_first there | place_first cleft | seen one_who"
SHARED_PATTERNS = ("plain", "passive")


@dataclass(frozen=True)
class Words:
    """What some splits may say. A taxonomy maps a kind to its members; an opposition has two sides of synonyms.

    An act is written `acting:acted`. Every event has an act and every comparison has names, which no other split has:
    hence no sentence of the world belongs to two splits.
    """

    names: tuple[str, ...]
    people: Mapping[str, tuple[str, ...]]
    things: Mapping[str, tuple[str, ...]]
    places: Mapping[str, tuple[str, ...]]
    seasons: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, tuple[str, ...]]
    qualities: tuple[Opposition, ...]
    acts: tuple[Opposition, ...]
    plain_acts: tuple[str, ...]
    comparisons: tuple[Opposition, ...]
    patterns: tuple[str, ...]


def words_of(*splits: Split) -> Words:
    """Return the words that the given splits use together."""

    def members(listing: str, separator: str | None = None) -> tuple[str, ...]:
        parts = dict(zip(SPLITS, listing.split("|"), strict=True))
        return tuple(" ".join(word.split()) for split in splits for word in parts[split].split(separator))

    def taxonomy(listings: Mapping[str, str], separator: str | None = None) -> dict[str, tuple[str, ...]]:
        return {kind: members(listing, separator) for kind, listing in listings.items()}

    def oppositions(listing: str) -> tuple[Opposition, ...]:
        pairs = (pair.split("/") for pair in members(listing, ";") if pair)
        return tuple((tuple(one.split()), tuple(other.split())) for one, other in pairs)

    return Words(
        names=members(NAMES),
        people=taxonomy(PEOPLE),
        things=taxonomy(THINGS),
        places=taxonomy(PLACES, ","),
        seasons=taxonomy(SEASONS, ","),
        numbers=taxonomy(NUMBERS),
        qualities=oppositions(QUALITIES),
        acts=oppositions(ACTS),
        plain_acts=members(PLAIN_ACTS),
        comparisons=oppositions(COMPARISONS),
        patterns=(*SHARED_PATTERNS, *members(PATTERNS)),
    )
