"""Time and memory of reading and checking many rows, beside pandas reading the same file.

python -m benchmarks.data.throughput FILE STEP prints one step as JSON; `run` calls it in a process
of its own, so that the peak of the memory is that of the step.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

STEPS = ("pandas", "quick", "thorough")
"""pandas reads the file; `quick` is the preparation with the structural checks; `thorough` runs the
thorough checks on the examples of that file, beyond 32 million characters from disk."""

_WORDS = 30_000
_LABELS = ("science", "sports", "politics", "business")
_BLOCK = 10_000


def write_rows(path: Path, rows: int) -> None:
    """Write labelled texts of 8 to 40 words, whose frequencies fall as in natural text."""
    random = Random(5)
    letters = "etaoinshrdlucmfwypvbgk"
    vocabulary = ["".join(random.choices(letters, k=random.randint(2, 9))) for _ in range(_WORDS)]
    weights = [1 / (rank + 10) for rank in range(_WORDS)]
    total = 0.0
    cumulative = [total := total + weight for weight in weights]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            words = random.choices(vocabulary, cum_weights=cumulative, k=random.randint(8, 40))
            text = f"{' '.join(words).capitalize()}."
            file.write(json.dumps({"text": text, "label": random.choice(_LABELS)}) + "\n")


def measure(step: str, path: Path) -> dict[str, object]:
    """Return seconds, CPU seconds, and the peak memory of this process in MiB."""
    started, cpu = time.perf_counter(), time.process_time()
    details = {"pandas": _pandas, "quick": _quick, "thorough": _thorough}[step](path)
    return {
        "step": step,
        "bytes": path.stat().st_size,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "details": details,
    }


def _pandas(path: Path) -> dict[str, float]:
    import pandas as pd

    return {"rows": float(sum(len(frame) for frame in pd.read_json(path, lines=True, chunksize=50_000)))}


def _quick(path: Path) -> dict[str, float]:
    from sweeps.data.prepare import prepare
    from sweeps.data.spec import DataSpec

    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        spec = DataSpec(source=str(path), prompt="{text}\n\n###\n\n", completion=" {label}", checks="quick")
        data = prepare(spec, Path(scratch))
    return {"findings": float(len(data.findings)), "train": float(data.dataset.train.examples)}


def _thorough(path: Path) -> dict[str, float]:
    """Run the thorough checks one by one, and return the CPU seconds of each."""
    from sweeps.data.checks import THOROUGH, DataView
    from sweeps.data.example_store import ExampleStore, Selection
    from sweeps.data.examples import Example, build_examples, choose_recipe
    from sweeps.data.findings import Finding
    from sweeps.data.readers.files import read_records

    recipe = choose_recipe([], "{text}\n\n###\n\n", " {label}", None, "\n")
    assert not isinstance(recipe, Finding)
    store = ExampleStore(path.parent)
    for item in build_examples(read_records(path), recipe):
        if isinstance(item, Example):
            store.append(item)
    train = len(store) * 8 // 10
    parts: dict[str, Sequence[Example]] = {
        "train": Selection(store, range(train)),
        "valid": Selection(store, range(train, (train + len(store)) // 2)),
        "test": Selection(store, range((train + len(store)) // 2, len(store))),
    }
    view = DataView(parts, recipe, tuple(sorted(f" {label}\n" for label in _LABELS)), False, 7)
    spent = {}
    for check in THOROUGH:
        cpu = time.process_time()
        list(check(view))
        spent[check.__name__] = time.process_time() - cpu
    return spent


def main() -> None:
    print(json.dumps(measure(sys.argv[2], Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
