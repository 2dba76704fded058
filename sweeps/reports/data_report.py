"""The report on a data set as one self-contained HTML page: faults, baselines, shape, oddities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sweeps.data import Finding, PreparedData
from sweeps.data.checks.catalogue import CHECKS
from sweeps.reports.baselines import baseline_table
from sweeps.reports.data_charts import COLOURS, WORDS, histogram_svg

FILE_NAME = "data-report.html"
"""The report of a sweep's data, in the folder of the sweep and in MLflow."""


@dataclass(frozen=True)
class _Bar:
    """A bar for one part: its share of the longest bar's scale, and the text at its end."""

    part: str
    share: float
    text: str


@dataclass(frozen=True)
class _Item:
    """A finding as the page shows it: files without their folders, lines grouped by file."""

    severity: str
    code: str
    place: str
    message: str
    hint: str
    lines: str
    why: str


def data_report(data: PreparedData, findings: Sequence[Finding], name: str) -> str:
    """Return the report as HTML; texts of the data are escaped.

    `findings` are those of the data and of the plan. Without an examination, as with `checks:
    quick`, the parts of the report that need one are missing. The same data give the same text.
    """
    from jinja2 import Environment

    template = resources.files(__package__).joinpath("data_report.html").read_text(encoding="utf-8")
    shape = None if data.examination is None else data.examination.profile
    return (
        Environment(autoescape=True, trim_blocks=True)
        .from_string(template)
        .render(
            name=name,
            data=data,
            sizes=[(WORDS[part], count) for part, count in data.sizes.items()],
            findings=_items(findings),
            affected=_affected(findings, data.sizes),
            baselines=None if data.baselines is None else baseline_table(data.baselines),
            labels=_label_bars(data),
            charts=[
                histogram_svg(shape.prompts, "characters of the prompt's fields"),
                histogram_svg(shape.completions, "characters of the completion"),
            ]
            if shape is not None
            else [],
            shape=shape,
            rows=_shape_rows(data),
            colours=COLOURS,
            words=WORDS,
            places={example.place: f"{Path(example.place).name}" for example in shape.strangest} if shape else {},
        )
    )


def _items(findings: Sequence[Finding]) -> list[_Item]:
    """Return the findings, errors first."""
    names = _short_names(findings)

    def short(text: str) -> str:
        for path, name in names.items():
            text = text.replace(path, name)
        return text

    items = []
    for finding in sorted(findings, key=lambda finding: finding.severity != "error"):
        by_file: dict[str, list[str]] = {}
        for place in finding.places if len(finding.places) > 1 else ():
            file, _, line = place.rpartition(":")
            by_file.setdefault(names.get(file, file), []).append(line)
        lines = "; ".join(f"{file}: lines {', '.join(numbers)}" for file, numbers in by_file.items())
        more = ", …" if lines and finding.count > len(finding.places) else ""
        items.append(
            _Item(
                finding.severity,
                finding.code,
                short(finding.place),
                short(finding.message),
                short(finding.hint),
                lines + more,
                CHECKS[finding.code].why if finding.code in CHECKS else "",
            )
        )
    return items


def _short_names(findings: Sequence[Finding]) -> dict[str, str]:
    """Return the paths of the files in findings with their names, the longest path first.

    Files of the same name keep their paths.
    """
    places = [place for finding in findings for place in (finding.place, *finding.places)]
    found = {file for place in places if "/" in (file := place.rpartition(":")[0])}
    names = Counter(Path(file).name for file in found)
    ordered = sorted(found, key=lambda file: (-len(file), file))
    return {file: Path(file).name for file in ordered if names[Path(file).name] == 1}


def _label_bars(data: PreparedData) -> list[tuple[str, list[_Bar]]]:
    """Return the share of each label in each part, the most frequent training label first."""
    counts = {part: labels for part, labels in data.label_counts.items() if any(labels.values())}
    totals = {part: sum(labels.values()) for part, labels in counts.items()}
    highest = max((max(labels.values()) / totals[part] for part, labels in counts.items()), default=1.0)
    ordered = sorted(data.dataset.labels, key=lambda label: -counts.get("train", {}).get(label, 0))
    return [
        (
            label.removesuffix(data.dataset.stop).strip(),
            [
                _Bar(
                    part, of_part.get(label, 0) / totals[part] / highest, _counted(of_part.get(label, 0), totals[part])
                )
                for part, of_part in counts.items()
            ],
        )
        for label in ordered
    ]


def _counted(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})"


def _affected(findings: Sequence[Finding], sizes: Mapping[str, int]) -> list[tuple[str, int, float]]:
    """Return code, count, and share of all examples, of the findings about several examples."""
    total = sum(sizes.values())
    counts: dict[str, int] = {}
    for finding in findings:
        if finding.places or finding.count > 1:
            counts[finding.code] = counts.get(finding.code, 0) + finding.count
    ordered = sorted(counts.items(), key=lambda entry: -entry[1])
    return [(code, count, min(1.0, count / total)) for code, count in ordered if total]


def _shape_rows(data: PreparedData) -> list[tuple[str, str, str, str]]:
    """Return for each part: its name, its lengths, and its share of unseen words."""
    unseen = data.examination.profile.unseen_words if data.examination and data.examination.profile else {}
    return [
        (
            WORDS[part],
            f"{lengths.prompt_mean:,.0f} (longest {lengths.prompt_max:,})",
            f"{lengths.completion_mean:,.0f} (longest {lengths.completion_max:,})",
            f"{unseen[part]:.1%}" if part in unseen else "",
        )
        for part, lengths in data.lengths.items()
    ]
