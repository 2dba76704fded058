"""The tables of the catalogue for `docs/guide/data-checks.md`.

`python -m sweeps.data.checks.tables` writes them into the guide, between its markers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sweeps.data.checks.catalogue import (
    CHECKS,
    MODEL,
    READING,
    RETIRED_TOOL,
    RETIRED_TOOL_NOTES,
    RULES,
    STRUCTURE,
    THOROUGH,
    Check,
)


def guide_tables() -> Mapping[str, str]:
    """Return the Markdown tables by the names of their markers."""
    return {
        "structure": _checks(STRUCTURE),
        "thorough": _checks(THOROUGH),
        "reading": _checks(READING),
        "model": _checks(MODEL),
        "rules": _rules(),
        "retired": _retired(),
    }


def _checks(checks: Sequence[Check]) -> str:
    lines = ["| code | what | | why it hurts | repair | `drop` |", "|---|---|---|---|---|---|"]
    for check in checks:
        severity = "error or warning" if check.severity == "either" else check.severity
        droppable = "yes" if check.droppable else ""
        lines.append(f"| `{check.code}` | {check.title} | {severity} | {check.why} | {check.repair} | {droppable} |")
    return "\n".join(lines)


def _rules() -> str:
    lines = ["| rule | codes that enforce it |", "|---|---|"]
    for rule, text in RULES.items():
        codes = ", ".join(f"`{check.code}`" for check in CHECKS.values() if rule in check.rules)
        lines.append(f"| {text} | {codes} |")
    return "\n".join(lines)


def _retired() -> str:
    lines = ["| check of the retired tool | code here | note |", "|---|---|---|"]
    for title, codes in RETIRED_TOOL.items():
        names = ", ".join(f"`{code}`" for code in codes)
        lines.append(f"| {title} | {names} | {RETIRED_TOOL_NOTES.get(title, '')} |")
    return "\n".join(lines)


def main() -> None:
    """Write the tables into the guide."""
    guide = Path(__file__).parents[3] / "docs" / "guide" / "data-checks.md"
    text = guide.read_text(encoding="utf-8")
    for name, table in guide_tables().items():
        start = text.index(f"<!-- {name} -->")
        end = text.index("<!-- end -->", start)
        text = f"{text[:start]}<!-- {name} -->\n{table}\n{text[end:]}"
    guide.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
