"""Check a set as a sweep does, and compare the findings with the injected faults."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.data.faults import Fault, Place
from benchmarks.data.sets import DataSet
from sweeps.data.checks import THOROUGH, DataView
from sweeps.data.checks.cases import recording
from sweeps.data.examples import Example, build_examples, choose_recipe
from sweeps.data.findings import FaultyDataError, Finding
from sweeps.data.prepare import prepare
from sweeps.data.readers.files import read_records
from sweeps.data.readers.record import Record
from sweeps.data.spec import DataSpec


@dataclass(frozen=True)
class Outcome:
    """What the checks said about one fault in one set.

    `injected` and `found_places` count the places; `further` are places with the same code that
    neither have the fault nor are reported on the clean set. A fault of the whole set has no place.
    """

    fault: str
    code: str
    kind: str
    data: str
    found: bool
    injected: int = 0
    found_places: int = 0
    further: int = 0


@dataclass(frozen=True)
class Report:
    """The codes that are reported on a set, and the places of the examples of each."""

    findings: Sequence[Finding]
    places: Mapping[str, set[str]]


def outcome(fault: Fault, data: DataSet, clean: Report, seed: int) -> Outcome:
    """Inject a fault into a set, check it, and compare. May raise NotApplicableError."""
    parts, places = fault.inject(data, Random(seed))
    report = checked(data.with_parts(parts), fault, places)
    found = any(finding.code == fault.code for finding in report.findings)
    listed = report.places.get(fault.code, set())
    wanted = {f"{part}.jsonl:{index + 1}" for part, index in places}
    further = listed - wanted - clean.places.get(fault.code, set())
    known = (len(wanted), len(wanted & listed), len(further)) if wanted else ()
    return Outcome(fault.name, fault.code, fault.kind, data.name, found, *known)


def checked(data: DataSet, fault: Fault | None = None, places: Sequence[Place] = ()) -> Report:
    """Return what is reported on a set: in preparation, and by the thorough checks if it passes."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "set"
        folder.mkdir()
        for part, rows in data.parts.items():
            broken = {index for name, index in places if name == part} if fault and fault.structure == "lines" else ()
            lines = [json.dumps(row) for row in rows]
            text = "".join(f"{line[:-2] if number in broken else line}\n" for number, line in enumerate(lines))
            (folder / f"{part}.jsonl").write_text(text, encoding="utf-8")
        spec = DataSpec(
            source=str(folder),
            prompt=data.prompt,
            completion=data.completion,
            task="classification" if data.has_labels else "generation",
            group_by="user" if "user" in data.parts["train"][0] else None,
            checks="quick",
        )
        with recording() as recorded:
            try:
                findings = list(prepare(spec, Path(scratch)).findings)
                view = view_of(spec, folder)
                findings += [finding for check in THOROUGH for finding in check(view)]
            except FaultyDataError as error:
                findings = list(error.findings)
    recorded = {code: set(places) for code, places in recorded.items()}
    for finding in findings:
        recorded.setdefault(finding.code, set()).update({finding.place, *finding.places})
    places_by_code = {
        code: {place.rpartition("/")[2] for place in places if place.rpartition(":")[2].isdigit()}
        for code, places in recorded.items()
    }
    return Report(findings, places_by_code)


def view_of(spec: DataSpec, folder: Path) -> DataView:
    """Return what the thorough checks see of a folder with files for the parts."""
    files = {part: folder / f"{part}.jsonl" for part in ("train", "valid", "test")}
    sample = [record for record in read_records(files["train"]) if isinstance(record, Record)][:100]
    recipe = choose_recipe(sample, spec.prompt, spec.completion, None, None)
    assert not isinstance(recipe, Finding)
    parts = {
        part: list(_examples(build_examples(read_records(file), recipe, False, spec.group_by)))
        for part, file in files.items()
    }
    labels = tuple(sorted({example.completion for example in parts["train"]})) if spec.task == "classification" else ()
    return DataView(parts, recipe, labels, False, spec.seed)


def _examples(items: Iterator[Example | Finding]) -> Iterator[Example]:
    return (item for item in items if isinstance(item, Example))
