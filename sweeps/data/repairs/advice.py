"""Which findings `sweep prepare` mends, and the command that does it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from sweeps.data.findings import Finding
from sweeps.data.repairs.preparation import ALL_REPAIRS
from sweeps.data.spec import DataSpec


def prepare_command(findings: Iterable[Finding], spec: DataSpec, data_path: Path | None = None) -> str:
    """Return the command that mends some of the findings on the data of a sweep; "" if none does.

    It has the options that give the same examples. Findings whose repair is made on request only do
    not count, because everybody's data has some. Benchmarks stay as they are.
    """
    mended = {code for repair in ALL_REPAIRS if repair.mode != "on request" for code in repair.mends}
    is_benchmark = spec.source == "snli" or spec.source.startswith("builtin:")
    if is_benchmark or not any(finding.code in mended for finding in findings):
        return ""
    source = str(data_path) if data_path is not None else spec.source
    name = Path(source.rstrip("/")).name.partition(".")[0] or "data"
    words = ["sweep", "prepare", source, "--out", f"{name}-prepared"]
    for key in ("prompt", "completion", "separator", "stop", "validation", "test", "group_by", "seed", "encoding"):
        value = getattr(spec, key)
        if value is not None and value != type(spec).model_fields[key].default:
            written = str(value).replace("\n", "\\n").replace("\t", "\\t")
            words += [f"--{key}".replace("_", "-"), written]
    return shlex.join(words)
