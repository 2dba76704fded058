"""`builtin:orders`: generated messages of customers, and what they order, as a JSON object.

The parts share all words, but no pair of a customer and a kind of thing. A model that learns who
orders what therefore fails: it must copy the fields from the message.
"""

from __future__ import annotations

import json
from random import Random

from sweeps.data.builtin.english_forms import with_article
from sweeps.data.builtin.held_out import Drawn, draw_records
from sweeps.data.builtin.nli_words import SPLITS, Split, words_of

PROMPT = "{message}\n\n###\n\n"
COMPLETION = "{order}"
"""The templates if the sweep file has none."""

_KINDS = ("fruit", "flower", "garment", "toy", "tool", "instrument")

_MESSAGES = (
    "{customer} is buying {item}.",
    "This is {customer}. Please send {item}.",
    "Can {customer} have {item}?",
    "There is {item} for {customer}, please keep it.",
)
_GIFT = " It is a gift."


def generate(part: Split, examples: int, seed: int) -> list[dict[str, str]]:
    """Return `examples` records `{"message", "order"}`; `order` is JSON text.

    See `draw_records` for what the parts have in common.
    """
    words = words_of(*SPLITS)
    things = tuple(thing for kind in _KINDS for thing in words.things[kind])

    def draw(rng: Random) -> Drawn:
        customer, thing, is_gift = rng.choice(words.names), rng.choice(things), rng.random() < 0.5
        item = with_article(f"{rng.choice(words.qualities)} {thing}")
        message = rng.choice(_MESSAGES).format(customer=customer, item=item) + _GIFT * is_gift
        order = {"customer": customer, "item": item, "gift": is_gift}
        return Drawn(f"{customer} {thing}", {"message": message, "order": json.dumps(order)})

    return draw_records(draw, part, examples, seed)
