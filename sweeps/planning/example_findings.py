"""Findings about the examples as the model reads them: what the backend reports, and what the
lengths in tokens mean for the space. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from backends.example_report import ExampleNotice, ExampleReport, TokenLengths
from search_spaces.space import ResolvedParameter, ResolvedSpace
from sweeps.data.findings import Finding, warning
from sweeps.data.places import Places, own_place
from sweeps.planning.sweep_plan import extreme_values
from sweeps.spec.yaml_source import Document

PROMPT_SHARE_LIMIT = 0.5
"""Above this share of the loss the prompts outweigh the completions."""


def example_findings(
    reports: Mapping[str, ExampleReport], space: ResolvedSpace, document: Document, places: Mapping[str, Places]
) -> tuple[Finding, ...]:
    """Return the findings of the reports, which are by base model, and those about the space.

    `places` says where the lines of the prepared files come from, by the path of the file.
    """
    found: list[Finding] = []
    for model, report in reports.items():
        prefix = f"with {model}: " if len(reports) > 1 else ""
        found += [_finding(notice, prefix, places) for notice in report.notices]
    lengths = next((report.lengths.get("train") for report in reports.values()), None)
    weight = space.parameter("prompt_loss_weight")
    if lengths is not None and weight is not None:
        found += _weight_findings(lengths, weight, document)
    return tuple(found)


def _finding(notice: ExampleNotice, prefix: str, places: Mapping[str, Places]) -> Finding:
    own = tuple(own_place(notice.path, number, places) for number in notice.examples)
    found = warning(notice.code, own[0] if own else notice.path, prefix + notice.message, notice.hint, notice.count)
    return replace(found, places=own)


def _weight_findings(lengths: TokenLengths, weight: ResolvedParameter, document: Document) -> Iterator[Finding]:
    """Yield that even the lowest weight of the space lets long prompts outweigh the completions.

    A prompt of r tokens for each token of its completion, each with the weight w, has the share
    w r / (1 + w r) of the loss.
    """
    values = [float(value) for value in extreme_values(weight) if isinstance(value, int | float)]
    ratio = lengths.prompt_share
    if not values or ratio is None or min(values) <= 0:
        return
    low = min(values)
    share = low * ratio / (1 + low * ratio)
    if share <= PROMPT_SHARE_LIMIT:
        return
    lowest = "the lowest value, " if weight.is_searched else ""
    message = (
        f"a prompt has {ratio:,.0f} times the tokens of its completion, so that with {lowest}{low:g}, prompts make "
        f"{share:.0%} of the loss"
    )
    hint = f"where prompts are long, reduce the weight: below {1 / ratio:.1g} completions weigh more than prompts"
    yield warning("prompt-weight", document.place(("space", "prompt_loss_weight")), message, hint)
