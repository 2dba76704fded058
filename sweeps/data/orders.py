"""`builtin:orders`: generated messages of customers, and what they order, as a JSON object.

The parts share all words, but no pair of customer and item. A model that learns which item belongs
to which customer therefore fails: it must copy the fields from the message.
"""

from __future__ import annotations

import json
from random import Random

from sweeps.data.english_forms import NUMBER_WORDS, plural
from sweeps.data.held_out import Drawn, draw_records
from sweeps.data.nli_words import SPLITS, Split, words_of

PROMPT = "{message}\n\n###\n\n"
COMPLETION = "{order}"
"""The templates if the sweep file has none."""

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")

MAX_COUNT = len(NUMBER_WORDS) - 1

_KINDS = ("fruit", "flower", "garment", "toy")

_WITHOUT_DAY_SHARE = 0.25
"""The share of messages that name no day; the day of the order is then null."""

_MESSAGES = (
    "{customer} would like {count} {items}{on_day}.",
    "This is {customer}: {count} {items}{on_day}, please.",
    "Please send {count} {items} to {customer}{on_day}.",
    "Can you keep {count} {items}{on_day} for {customer}?",
)


def generate(part: Split, examples: int, seed: int) -> list[dict[str, str]]:
    """Return `examples` records `{"message", "order"}`; `order` is JSON text.

    See `draw_records` for what the parts have in common.
    """
    words = words_of(*SPLITS)
    items = tuple(thing for kind in _KINDS for thing in words.things[kind])

    def draw(rng: Random) -> Drawn:
        customer, item, count = rng.choice(words.names), rng.choice(items), rng.randint(1, MAX_COUNT)
        day = None if rng.random() < _WITHOUT_DAY_SHARE else rng.choice(DAYS)
        message = rng.choice(_MESSAGES).format(
            customer=customer,
            count=rng.choice((str(count), NUMBER_WORDS[count])),
            items=item if count == 1 else plural(item),
            on_day=f" on {day}" if day else "",
        )
        order = {"customer": customer, "item": item, "count": count, "day": day}
        return Drawn(f"{customer} {item}", {"message": message, "order": json.dumps(order)})

    return draw_records(draw, part, examples, seed)
