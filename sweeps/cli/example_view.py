"""A training example on the screen, with what is trained marked. Prints nothing."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text

from backends.example_report import TokenLengths
from backends.rendering import Piece, RenderedExample

TRAINED_STYLE = "bold green"

_CONTEXT_CHARACTERS = 240
_TRAINED_CHARACTERS = 600
"""Longer pieces lose their middle."""
_PIECES = 24
"""Of an example with more pieces, those in the middle are left out."""


def example(rendered: RenderedExample, *, coloured: bool) -> Text:
    """Show an example; without colours, what is trained stands in [[double brackets]]."""
    mark = "what is trained is green" if coloured else "what is trained is in [[brackets]]"
    text = Text(f"training example {rendered.example}, as it is trained; {mark}:\n")
    pieces, left_out = _shortened(rendered.pieces)
    for number, piece in enumerate(pieces):
        if left_out and number == len(pieces) // 2:
            text.append(f"\n... {left_out} more turns ...\n", style="dim")
        shown = _printable(_without_middle(piece))
        if not piece.is_trained:
            text.append(shown, style="dim" if coloured else "")
            continue
        # The end of a turn is trained, too: a line break there is shown as such.
        stripped = shown.rstrip("\n")
        shown = stripped + "\\n" * (len(shown) - len(stripped))
        text.append(shown if coloured else f"[[{shown}]]", style=TRAINED_STYLE if coloured else "")
        if shown != stripped and number + 1 < len(pieces):
            text.append("\n")
    return text


def token_lengths(lengths: Mapping[str, TokenLengths], max_length: int | None) -> str:
    """Describe the training examples in tokens in one line; empty if nobody counted them."""
    train = lengths.get("train")
    if train is None:
        return ""
    means = f"{train.prompt_mean:,.0f} tokens a prompt"
    if train.completion_mean is not None:
        means += f", {train.completion_mean:,.1f} a completion"
    limit = f" of at most {max_length:,}" if max_length is not None else ""
    basis = f" ({train.basis})" if train.basis else ""
    return f"{means} on average, the longest example has {train.longest:,}{limit}{basis}"


def _shortened(pieces: tuple[Piece, ...]) -> tuple[tuple[Piece, ...], int]:
    """Return the first and last pieces, and how many trained ones between them are left out."""
    if len(pieces) <= _PIECES:
        return pieces, 0
    half = _PIECES // 2
    kept = (*pieces[:half], *pieces[-half:])
    return kept, sum(piece.is_trained for piece in pieces[half:-half])


def _without_middle(piece: Piece) -> str:
    limit = _TRAINED_CHARACTERS if piece.is_trained else _CONTEXT_CHARACTERS
    if len(piece.text) <= limit:
        return piece.text
    half = limit // 2
    return f"{piece.text[:half]} ... ({len(piece.text) - 2 * half:,} characters) ... {piece.text[-half:]}"


def _printable(text: str) -> str:
    """Return a text without characters that would command the terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )
