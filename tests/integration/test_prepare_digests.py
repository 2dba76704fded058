"""`sweep prepare` writes the same bytes on every machine, whatever hash seed and locale are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

PARTS = {
    "train": "d6f927c9f9fa6b23f0448498ae2cd3d89ade2986903cca2ed87bce7193f65f10",
    "valid": "f0d58aced9d324b7508a638e391e355b0cf052ef0e931738c2bf7072928e889e",
    "test": "a3760408ed0b665bfc9bc6aa61f1267dffa71a09728f0baf7897989cc5ec694c",
}
"""The digests that one machine computed once. A change of them changes the data of every user."""


def rows() -> list[dict[str, object]]:
    subjects = ("The old gardener", "A young pilot", "My neighbour's cat", "Nobody", "Zoë")
    objects = ("twelve violins", "the harbour wall", "cheap soup", "an atlas", "a crêpe")
    places = ("at dawn", "in Lisbon", "under the stairs", "for the jury", "twice a week", "on Ünter Street")
    texts = [f"{who} finds {what} {where}" for who in subjects for what in objects for where in places]
    labels = ("calm", "busy", "Calm ", "NaN", "bored")
    made = [{"text": text, "label": labels[number % 5], "user": number % 37} for number, text in enumerate(texts)]
    return [*made, *made[:7], {"text": "caf\u00c3\u00a9 at dawn", "label": "busy", "user": 1}]


@pytest.mark.parametrize(("hash_seed", "language"), [("0", "C"), ("4711", "C.UTF-8")], ids=["ascii", "utf8"])
def test_the_digests_are_equal_on_every_machine(tmp_path: Path, hash_seed: str, language: str) -> None:
    source = tmp_path / "d.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "LC_ALL": language, "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "sweeps.cli", "prepare", "d.jsonl", "--out", "ready", "--yes"]
    done = subprocess.run(
        [*command, "--group-by", "user"], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = b"caf\\xc3" if language == "C" else "caf\u00c3".encode()
    assert shown in done.stdout  # a terminal without these letters gets their codes, not a traceback
    manifest = json.loads((tmp_path / "ready" / "manifest.json").read_text(encoding="utf-8"))
    assert {part: facts["sha256"] for part, facts in manifest["parts"].items()} == PARTS
