"""Examine prepared data once: the slow checks, the baselines, and the shape of the data.

The result is remembered beside the prepared files, under a digest of everything that it depends on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from backends import codec
from backends.contract import MetricRequest
from sweeps.data.baselines.baseline import Baselines
from sweeps.data.baselines.measurement import measure
from sweeps.data.checks import THOROUGH
from sweeps.data.checks.view import DataView
from sweeps.data.findings import Finding, capped
from sweeps.data.profile import DataProfile, profile
from sweeps.workspace import write_text

_CODE = ("checks", "baselines", "near_duplicates.py", "profile.py", "examination.py", "findings.py")
"""The code, below this folder, whose change makes every examination outdated."""


@dataclass(frozen=True)
class Examination:
    """What the thorough checks found, what the task gives away, and the shape of the data."""

    findings: tuple[Finding, ...] = ()
    baselines: Baselines | None = None
    profile: DataProfile | None = None


def examine(view: DataView, folder: Path, metrics: Sequence[MetricRequest] = ()) -> Examination:
    """Return the examination of the data whose prepared files are in `folder`.

    It is read from there if this version of the code has made it, for these files, these places of
    the examples and these metrics. A damaged file is made anew. The baselines of free text are
    scored by `metrics`.
    """
    file = folder / f"examination-{_key(view, metrics)}.json"
    with suppress(OSError, ValueError):
        return codec.from_json(Examination, json.loads(file.read_text(encoding="utf-8")))
    found = Examination(
        capped(finding for check in THOROUGH for finding in check(view)), measure(view, metrics), profile(view)
    )
    with suppress(OSError):  # such as a full disk; the next examination costs its seconds again
        write_text(file, json.dumps(codec.to_json(found), ensure_ascii=False))
    return found


def _key(view: DataView, metrics: Sequence[MetricRequest]) -> str:
    """Return a digest of what the examination depends on, apart from the content of the files."""
    digest = hashlib.sha256(_code_digest())
    settings = [
        repr(view.recipe),
        list(view.labels),
        view.published,
        view.seed,
        codec.to_json(list(metrics), list[MetricRequest]),
    ]
    digest.update(json.dumps(settings, sort_keys=True).encode(errors="surrogatepass"))
    for part, examples in view.parts.items():
        digest.update(f"\n{part}\n".encode())
        for example in examples:
            digest.update(f"{example.file}:{example.line}:{example.group}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()[:16]


@cache
def _code_digest() -> bytes:
    here, digest = Path(__file__).parent, hashlib.sha256()
    for name in _CODE:
        files = sorted((here / name).glob("*.py")) if (here / name).is_dir() else [here / name]
        for file in files:
            digest.update(file.read_bytes())
    return digest.digest()
