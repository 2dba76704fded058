"""The charts of the data report as SVG: histograms of lengths. The same data give the same text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeps.data.profile import Histogram

WIDTH, HEIGHT = 480, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 10, 8, 34
_LABELS = 6
"""The most numbers below the axis."""

COLOURS: Mapping[str, str] = {"train": "#9bb7d4", "valid": "#c8553d", "test": "#2f6f4f"}
WORDS: Mapping[str, str] = {"train": "training", "valid": "validation", "test": "test"}


@dataclass(frozen=True)
class _Plane:
    """Maps bars and shares to coordinates."""

    bars: int
    highest: float

    def x(self, edge: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * edge / self.bars

    def y(self, share: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * share / self.highest


def histogram_svg(histogram: Histogram, axis: str) -> str:
    """Draw the shares of each part by length: training as bars, the others as lines.

    `axis` names the horizontal axis.
    """
    shares = {part: _shares(counts) for part, counts in histogram.counts.items() if sum(counts)}
    bars = len(histogram.edges) - 1
    if not shares or bars < 1:
        return ""
    plane = _Plane(bars, max(max(values) for values in shares.values()))
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{axis} by part" font-size="11" fill="#444">',
        f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{plane.y(0):.1f}" y2="{plane.y(0):.1f}" stroke="#bbb"/>',
        f'<text x="{_LEFT - 4}" y="{plane.y(plane.highest) + 8:.1f}" text-anchor="end">{plane.highest:.0%}</text>',
        f'<text x="{_LEFT - 4}" y="{plane.y(0):.1f}" text-anchor="end">0</text>',
    ]
    for part, values in shares.items():
        if part == "train":
            parts += [_bar(plane, number, share) for number, share in enumerate(values) if share]
        else:
            parts.append(_line(plane, values, COLOURS.get(part, "#444")))
    step = max(1, -(-bars // _LABELS))
    for number in range(0, bars, step):
        parts.append(
            f'<text x="{plane.x(number):.1f}" y="{HEIGHT - _BOTTOM + 14}" text-anchor="middle">'
            f"{histogram.edges[number]:,}</text>"
        )
    parts.append(f'<text x="{(WIDTH + _LEFT) / 2:.1f}" y="{HEIGHT - 4}" text-anchor="middle">{axis}</text></svg>')
    return "".join(parts)


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts)
    return [count / total for count in counts]


def _bar(plane: _Plane, number: int, share: float) -> str:
    left, right = plane.x(number + 0.04), plane.x(number + 0.96)
    top = plane.y(share)
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{plane.y(0) - top:.1f}" '
        f'fill="{COLOURS["train"]}"/>'
    )


def _line(plane: _Plane, shares: Sequence[float], colour: str) -> str:
    steps = [f"M{plane.x(0):.1f} {plane.y(0):.1f}"]
    for number, share in enumerate(shares):
        steps.append(f"L{plane.x(number):.1f} {plane.y(share):.1f}L{plane.x(number + 1):.1f} {plane.y(share):.1f}")
    steps.append(f"L{plane.x(len(shares)):.1f} {plane.y(0):.1f}")
    return f'<path d="{"".join(steps)}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
