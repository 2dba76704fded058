"""Results -> RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Results = Mapping[str, Any]


def markdown(results: Results) -> str:
    """Return the report."""
    outcomes = results["outcomes"]
    structural = [outcome for outcome in outcomes if outcome["kind"] == "structural"]
    thorough = [outcome for outcome in outcomes if outcome["kind"] == "thorough"]
    copies, alarms = results["copies"], results["alarms"]
    found, added = sum(row["found"] for row in copies), sum(row["copies"] for row in copies)
    real = [row for row in alarms if not row["data"].startswith("builtin:")]
    share = sum(row["alarms"] for row in real) / sum(row["examples"] for row in real)
    lines = [
        "# Do the data checks find faults, and are they silent on clean data?",
        "",
        "`python -m benchmarks.data.run --data FOLDER` writes this page. The folder has real sets: SMS spam (UCI),",
        "GSM8K and SNLI; two sets are generated. Each fault is injected alone, at ten known places of a set of",
        "about 1,500 rows, and the set is read and checked as a sweep does it. We chose the faults and know the",
        "thresholds, so read the numbers as a lower bound of what the checks cannot miss, not as a survey.",
        "",
        "## In short",
        "",
        f"- Structural faults: {_found(structural)} of {len(structural)} found, {_places(structural)} of their places.",
        f"- Other faults: {_found(thorough)} of {len(thorough)} found, {_places(thorough)} of their places.",
        f"- Near duplicates: {found:,} of {added:,} edited copies found ({found / added:.1%}). On the real sets",
        f"  without injected copies, {share:.1%} of the rows are reported; most are real copies of another row.",
        f"- Wrong labels: {_noise_summary(results['noise'])}.",
        "",
        "## Each fault",
        "",
        "*Further* counts places with the same code that have no injected fault and are not reported on the",
        "untouched set. *Not found in* names the sets where the fault went unseen.",
        "",
        "| fault | code | sets | found | places | further | not found in |",
        "|---|---|---|---|---|---|---|",
        *_fault_rows(outcomes),
        "",
        "## On the untouched sets",
        "",
        "These sets are as people have published them, without rows of the same words. What is reported on them",
        "is either a false alarm, or a property that the set really has: the telephone numbers of SMS spam are in it,",
        "its near duplicates are copies with another number or greeting (below), a premise of SNLI ends with a space,",
        "and the validation part of `builtin:nli` has other words than its training part on purpose.",
        "",
        "| set | rows | codes reported |",
        "|---|---|---|",
        *(f"| {row['data']} | {row['rows']:,} | {_codes(row['codes'])} |" for row in results["clean"]),
        "",
        "## Near duplicates, row by row",
        "",
        "200 training rows are copied, edited, and added.",
        "",
        "| set | edit | copies | found |",
        "|---|---|---|---|",
        *(
            f"| {row['data']} | {row['edit']} | {row['copies']} | {row['found'] / row['copies']:.1%} |"
            for row in copies
        ),
        "",
        "Rows of the untouched sets with a near duplicate, and examples of them:",
        "",
        "| set | rows | with a near duplicate |",
        "|---|---|---|",
        *(f"| {row['data']} | {row['examples']:,} | {row['alarms'] / row['examples']:.1%} |" for row in alarms),
        "",
        *(
            f"- {row['data']}: *{_cut(first)}* and *{_cut(second)}*"
            for row in alarms
            for first, second in row["shown"][:3]
        ),
        "",
        "## Wrong labels, row by row",
        "",
        "A share of the training labels is replaced by others, with five seeds. *False alarms* are suspects among the",
        "rows with their published label, which need not be right. The labels of sentence pairs are not decided by",
        "single words, so the check stays silent there, and finds nothing.",
        "",
        "| set | wrong | found | right among the suspects | false alarms |",
        "|---|---|---|---|---|",
        *(_noise_row(row) for row in results["noise"]),
        "",
        "## Speed and memory",
        "",
        *_speed(results.get("speed", ())),
    ]
    return "\n".join(lines) + "\n"


def _found(outcomes: Sequence[Results]) -> int:
    return sum(outcome["found"] for outcome in outcomes)


def _places(outcomes: Sequence[Results]) -> str:
    return f"{sum(o['found_places'] for o in outcomes) / max(1, sum(o['injected'] for o in outcomes)):.1%}"


def _fault_rows(outcomes: Sequence[Results]) -> Iterable[str]:
    for fault in dict.fromkeys(outcome["fault"] for outcome in outcomes):
        rows = [outcome for outcome in outcomes if outcome["fault"] == fault]
        injected = sum(row["injected"] for row in rows)
        places = f"{sum(row['found_places'] for row in rows)} of {injected}" if injected else "whole set"
        missed = ", ".join(row["data"] for row in rows if not row["found"])
        further = sum(row["further"] for row in rows)
        yield f"| {fault} | `{rows[0]['code']}` | {len(rows)} | {_found(rows)} | {places} | {further} | {missed} |"


def _codes(codes: Mapping[str, int]) -> str:
    return ", ".join(f"`{code}` ({count})" for code, count in codes.items()) or "none"


def _noise_row(row: Results) -> str:
    recall = f"{row['hits'] / row['wrong']:.0%}" if row["wrong"] else "-"
    precision = f"{row['hits'] / row['suspects']:.0%}" if row["suspects"] and row["wrong"] else "-"
    false = (row["suspects"] - row["hits"]) / (row["examples"] - row["wrong"])
    return f"| {row['data']} | {row['share']:.0%} | {recall} | {precision} | {false:.1%} |"


def _noise_summary(rows: Sequence[Results]) -> str:
    row = next(row for row in rows if row["share"] == 0.05 and row["suspects"])
    false = (row["suspects"] - row["hits"]) / (row["examples"] - row["wrong"])
    return (
        f"of 5 % wrong labels in {row['data']}, {row['hits'] / row['wrong']:.0%} are found, at {false:.1%} "
        "false alarms; nothing is found where single words do not decide the label"
    )


def _speed(rows: Sequence[Results]) -> list[str]:
    if not rows:
        return ["Not measured in this run; see `--rows`."]
    lines = [
        "Texts of 8 to 40 words with four labels, one core, each step in a process of its own. *quick* reads, checks",
        "the structure, splits and writes; *thorough* reads and runs the thorough checks. The peak includes Python",
        "and NumPy.",
        "",
        "| rows | step | MB | CPU s | MB/s | peak MiB |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        size = row["bytes"] / 1e6
        cpu = row["cpu_seconds"]
        lines.append(
            f"| {row['rows']:,} | {row['step']} | {size:.0f} | {cpu:.1f} | {size / cpu:.1f} | {row['peak_mib']:.0f} |"
        )
    largest = [row for row in rows if row["step"] == "thorough"][-1]
    spent = sorted(largest["details"].items(), key=lambda item: -item[1])
    costs = ", ".join(f"`{name}` {seconds:.1f} s" for name, seconds in spent if seconds >= 0.1)
    return [*lines, "", f"Of {largest['rows']:,} rows, the checks take: {costs}."]


def _cut(text: str) -> str:
    return text if len(text) <= 110 else f"{text[:107]}..."
