"""How fast the readers are, beside pandas on the same files in the same process, and their memory.

    python -m benchmarks.data.reading --rows 1000000 --folder /tmp/reading

Each measurement is the median of `--repeats` passes over the whole file. pandas reads all columns
as text; our readers make records with their lines and check each one. Memory is the most that a
process of its own held while it read, above what it held after its imports.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

WORDS = 4000
MEMORY_SCRIPT = r"""
import re, sys
from pathlib import Path
from sweeps.data.readers.files import read_records
from sweeps.data.readers.record import Record
if sys.argv[1].endswith((".parquet", ".arrow")):
    import pyarrow.parquet
def peak_kb():  # unlike ru_maxrss, this does not begin with the memory of the parent
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
before = peak_kb()
records = sum(isinstance(item, Record) for item in read_records(Path(sys.argv[1])))
print(records, peak_kb() - before)
"""


def rows(count: int, seed: int = 7) -> Iterator[dict[str, str]]:
    """Yield made-up examples: 30 words and a label; some have quotes, commas and line breaks."""
    numbers = random.Random(seed)
    words = ["".join(numbers.choices("abcdefghijklmnopqrstuvwxyzé", k=numbers.randint(2, 9))) for _ in range(WORDS)]
    for number in range(count):
        text = " ".join(numbers.choices(words, k=30))
        if number % 10 == 0:
            text = f'"{text}", she said\nand left'
        yield {"id": str(number), "text": text, "label": ("good", "bad", "neither")[number % 3]}


def write_files(folder: Path, count: int) -> list[Path]:
    import pyarrow
    from pyarrow import parquet

    paths = [folder / f"d{ending}" for ending in (".csv", ".jsonl", ".json", ".parquet", ".csv.gz")]
    if all(path.exists() for path in paths):
        return paths
    with paths[0].open("w", newline="", encoding="utf-8") as table, paths[1].open("w", encoding="utf-8") as lines:
        writer = csv.DictWriter(table, ["id", "text", "label"])
        writer.writeheader()
        for row in rows(count):
            writer.writerow(row)
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    with paths[1].open(encoding="utf-8") as lines, paths[2].open("w", encoding="utf-8") as document:
        for number, line in enumerate(lines):
            document.write(("[" if number == 0 else ",\n") + line.rstrip("\n"))
        document.write("]")
    batches = pyarrow.Table.from_pylist(list(rows(min(count, 100_000))))
    with parquet.ParquetWriter(paths[3], batches.schema) as writer:
        for _ in range(max(1, count // 100_000)):
            writer.write_table(batches)
    with gzip.open(paths[4], "wb", compresslevel=6) as packed, paths[0].open("rb") as table:
        while block := table.read(2**20):
            packed.write(block)
    return paths


def ours(path: Path) -> int:
    from sweeps.data.readers.files import read_records
    from sweeps.data.readers.record import Record

    return sum(isinstance(item, Record) for item in read_records(path))


def pandas_reads(path: Path) -> int:
    import pandas

    if ".csv" in path.name:
        return len(pandas.read_csv(path, dtype=str, keep_default_na=False))
    if path.suffix == ".jsonl":
        return len(pandas.read_json(path, lines=True, dtype=False))
    if path.suffix == ".json":
        return len(pandas.read_json(path, dtype=False))
    return len(pandas.read_parquet(path))


def median_s(read: Callable[[Path], int], path: Path, repeats: int) -> tuple[float, int]:
    times = []
    count = 0
    for _ in range(repeats):
        start = time.process_time()
        count = read(path)
        times.append(time.process_time() - start)
    return statistics.median(times), count


def peak_mb(path: Path) -> float:
    run = [sys.executable, "-c", MEMORY_SCRIPT, str(path)]
    return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only-ours", action="store_true", help="leave pandas out, which holds the whole table")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print("| file | MB | records | ours, MB/s | pandas, MB/s | records/s | memory, MB |")
    print("|---|---|---|---|---|---|---|")
    for path in write_files(options.folder, options.rows):
        megabytes = path.stat().st_size / 1e6
        own_s, count = median_s(ours, path, options.repeats)
        theirs = "-"
        if not options.only_ours:
            pandas_s, pandas_count = median_s(pandas_reads, path, options.repeats)
            assert count == pandas_count, (path, count, pandas_count)
            theirs = f"{megabytes / pandas_s:.0f}"
        print(
            f"| {path.name} | {megabytes:.0f} | {count:,} | {megabytes / own_s:.0f} | {theirs} "
            f"| {count / own_s:,.0f} | {peak_mb(path):.0f} |",
            flush=True,
        )
    print(f"\nCPU time, one process, median of {options.repeats} passes")


if __name__ == "__main__":
    main()
