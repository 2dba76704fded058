"""Run the benchmark of the data checks, and write RESULTS.md and results.json.

python -m benchmarks.data.run --data FOLDER [--rows 20000,1000000]

Without `--rows`, the speed of the last run stays.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.data import pairs
from benchmarks.data.detection import Outcome, Report, checked, outcome
from benchmarks.data.faults import FAULTS, NotApplicableError
from benchmarks.data.report import markdown
from benchmarks.data.sets import DataSet, generated_sets, real_sets
from benchmarks.data.throughput import STEPS, write_rows

RESULTS = Path(__file__).with_name("results.json")


def outcomes(sets: Sequence[DataSet], clean: dict[str, Report]) -> Iterator[Outcome]:
    """Inject every fault into every set that can have it."""
    for fault in FAULTS:
        for data in sets:
            if fault.fits(data):
                try:
                    yield outcome(fault, data, clean[data.name], seed=1)
                except NotApplicableError:
                    continue


def speed(rows: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Measure all steps for each number of rows."""
    for count in rows:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "rows.jsonl"
            write_rows(path, count)
            for step in STEPS:
                command = [sys.executable, "-m", "benchmarks.data.throughput", str(path), step]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                yield {"rows": count, **json.loads(done.stdout)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="the folder with the real sets")
    parser.add_argument("--rows", default="", help="numbers of rows for the speed, separated by commas")
    options = parser.parse_args(arguments)
    sets = [*real_sets(options.data), *generated_sets()]
    clean = {data.name: checked(data) for data in sets}
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results = {
        "outcomes": [asdict(found) for found in outcomes(sets, clean)],
        "clean": [
            {
                "data": data.name,
                "rows": sum(map(len, data.parts.values())),
                "codes": _counts(clean[data.name]),
            }
            for data in sets
        ],
        "copies": [asdict(row) for data in sets for row in pairs.copies(data)],
        "alarms": [asdict(pairs.alarms(data)) for data in sets],
        "noise": [asdict(row) for data in sets if data.has_labels for row in pairs.noise(data)],
        "speed": list(speed([int(count) for count in options.rows.split(",")]))
        if options.rows
        else known.get("speed", []),
    }
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    RESULTS.with_name("RESULTS.md").write_text(markdown(results), encoding="utf-8")
    print(markdown(results))


def _counts(report: Report) -> dict[str, int]:
    counts: dict[str, int] = {}
    for finding in report.findings:
        counts[finding.code] = counts.get(finding.code, 0) + finding.count
    return counts


if __name__ == "__main__":
    main()
