"""Repairs on the screen: a coloured diff of a few changes. Prints nothing."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from textwrap import fill

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeps.data.examples import ChatRecipe
from sweeps.data.repairs import Change, Repair
from sweeps.data.repairs.loading import Loaded
from sweeps.data.repairs.preparation import Preparation
from sweeps.data.repairs.rows import ARROW

SHOWN_CHANGES = 3
SHOWN_LABELS = 6

_REMOVED, _ADDED = "red", "green"
_INDENT = "   "
_LEAST_WIDTH = 30
_COMPARED = 2_000
"""Characters that are compared; the rest of longer texts is not shown anyway."""

_PARTS = {"train": "training", "valid": "validation", "test": "test"}
_VISIBLE = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\u00a0": "\\xa0"}


def repair(number: int, repair: Repair, changes: Sequence[Change], *, width: int, is_made: bool) -> RenderableType:
    """Show a repair: what it does and why, how often, and the first changes."""
    count = sum(change.rows for change in changes)
    left_out = sum(change.rows for change in changes if change.after is None)
    what = "line" if repair.code == "unreadable" else "row" if left_out == count else "text"
    counted = f"{count:,} {what}{'s' if count != 1 else ''}"
    title = Text.assemble((f"{number}. {repair.title}: ", "bold"), f"{counted} ", (f"({repair.code})", "dim"))
    if not is_made:
        title.append(f"\n   not made unless asked for: --also {repair.code}", style="yellow")
    why = fill(repair.why, width, initial_indent=_INDENT, subsequent_indent=_INDENT)
    parts: list[RenderableType] = [Text(), title, Text(why, style="dim")]
    parts += [change(item, width - 5) for item in _different(changes)]
    if rest := count - sum(item.rows for item in _different(changes)):
        parts.append(Text(f"   and {rest:,} more", style="dim"))
    return Group(*parts)


def change(item: Change, width: int) -> Text:
    """Show one change: the place and the reason, then the text before and after it."""
    more = f" and {item.rows - 1:,} more" if item.rows > 1 else ""
    text = Text(f"   {item.place}{more}")
    if item.reason:
        text.append(f"  {_shortened(_printable(item.reason), max(_LEAST_WIDTH, width - len(item.place) - 2))}")
    if item.before:
        text.append("\n")
        text.append_text(_difference(item, max(_LEAST_WIDTH, width)))
    return text


def loaded(source: str, loaded: Loaded, encoding: str, *, is_guess: bool) -> RenderableType:
    """Show what was read, and of which columns the examples are made.

    `is_guess`: the content of the columns decided.
    """
    rows = sum(map(len, loaded.parts.values()))
    read_as = "" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else f", read as {encoding}"
    lines = [f"{source}: {rows:,} rows, columns {', '.join(loaded.columns)}{read_as}"]
    if isinstance(loaded.recipe, ChatRecipe):
        lines.append(f"examples: conversations ({loaded.recipe.source.name})")
    else:
        lines.append(f"examples: prompt {loaded.recipe.prompt.text!r}, completion {loaded.recipe.completion.text!r}")
        if is_guess:
            lines.append("chosen by the content of the columns; --prompt and --completion choose others")
    if loaded.unused:
        lines.append(f"columns without use, which are left out: {', '.join(loaded.unused)}")
    return Text("\n".join(lines))


def result(done: Preparation) -> RenderableType:
    """Show the parts with their labels, the delimiters, and what was declined."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("part")
    table.add_column("examples", justify="right")
    if done.is_classification:
        table.add_column("labels", overflow="fold")
    for part, rows in done.parts.items():
        counts = list(done.label_counts(part).items())
        labels = ", ".join(f"{_shortened(label, 30)} {count:,}" for label, count in counts[:SHOWN_LABELS])
        rest = f", and {len(counts) - SHOWN_LABELS} more labels" if len(counts) > SHOWN_LABELS else ""
        cells = [_PARTS[part], f"{len(rows):,}", *([labels + rest] if done.is_classification else [])]
        table.add_row(*map(Text, cells))
    parts: list[RenderableType] = [Text(), table]
    if done.delimiters is not None:
        ends = done.delimiters
        parts.append(Text(f"every prompt ends with {ends.separator!r}, every completion with {ends.stop!r}"))
    if not done.made:
        parts.append(Text("nothing to repair"))
    for made in done.declined:
        hint = f"--also {made.repair.code}" if made.repair.mode == "on request" else "declined"
        title = made.repair.title[:1].lower() + made.repair.title[1:]
        parts.append(Text(f"not made: {title} ({made.count:,}; {hint})", style="yellow"))
    return Group(*parts)


def _different(changes: Sequence[Change]) -> list[Change]:
    """Return the first changes that do not look alike, filled up with the first others."""
    seen: dict[tuple[str, str | None], Change] = {}
    for item in changes[:1000]:
        seen.setdefault((item.before or item.place, item.after), item)
        if len(seen) == SHOWN_CHANGES:
            break
    return list(seen.values())


def _difference(item: Change, width: int) -> Text:
    """Show the text before and after, each on one line, around the first difference."""
    if item.after is None:
        return Text(f"   - {_with_answer(_printable(item.before), width)}", style=_REMOVED)
    before, after = item.before[:_COMPARED], item.after[:_COMPARED]
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    blocks = [block for block in matcher.get_opcodes() if block[0] != "equal"]
    start = max(0, (blocks[0][1] if blocks else 0) - width // 3)
    if blocks and max(len(before), len(after)) <= width:
        start = 0
    old, new = Text("   - ", style=_REMOVED), Text("\n   + ", style=_ADDED)
    _append(old, before, [(block[1], block[2]) for block in blocks], start, width, _REMOVED)
    _append(new, after, [(block[3], block[4]) for block in blocks], start, width, _ADDED)
    return old.append_text(new)


def _append(line: Text, text: str, marked: Sequence[tuple[int, int]], start: int, width: int, style: str) -> None:
    """Append what fits of a text from `start` on, with the marked characters underlined."""
    inside = {position for first, last in marked for position in range(first, last)}
    room = width
    if start:
        line.append("...")
        room -= 3
    for position in range(start, len(text)):
        shown = _printable(text[position])
        if position in inside and shown == " ":
            shown = "\u00b7"
        if len(shown) > room - (3 if position + 1 < len(text) else 0):
            line.append("...")
            return
        line.append(shown, style=f"bold underline {style}" if position in inside else style)
        room -= len(shown)


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 3)] + "..."


def _with_answer(text: str, width: int) -> str:
    """Return a row on one line; of a long one, the end of the prompt is missing, not the answer."""
    prompt, arrow, answer = text.rpartition(ARROW)
    if len(text) <= width or not arrow or len(answer) > width // 2:
        return _shortened(text, width)
    return _shortened(prompt, width - len(arrow) - len(answer)) + arrow + answer


def _printable(text: str) -> str:
    """Return a text on one line, without characters that would command the terminal."""
    return "".join(
        _VISIBLE.get(character)
        or (character if character.isprintable() else character.encode("unicode_escape").decode())
        for character in text
    )
