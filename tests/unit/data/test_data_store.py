"""Prepared parts on disk: what was written is read back, whatever characters the texts contain."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.data.examples import Example, PairRecipe
from sweeps.data.store import read_lines, write_parts
from sweeps.data.templates import Template

pytestmark = pytest.mark.unit

LINE_SEPARATORS = ("\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\r")
TEXTS = st.text(max_size=20) | st.sampled_from([f"a{character}b" for character in LINE_SEPARATORS])


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_every_line_that_was_written_is_read_back(pairs: list[tuple[str, str]]) -> None:
    recipe = PairRecipe(Template.parse("{text}"), Template.parse("{label}"), "", "")
    examples = [Example(prompt, completion, (prompt,), "f", 1) for prompt, completion in pairs]
    with tempfile.TemporaryDirectory() as folder:
        files, _ = write_parts({"train": examples}, recipe, (), Path(folder))
        lines = read_lines(files["train"])
    assert [(line["prompt"], line["completion"]) for line in lines] == pairs


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    recipe = PairRecipe(Template.parse("{text}"), Template.parse("{label}"), "", "")
    dead, alive = tmp_path / ".writing-dead", tmp_path / ".writing-alive"
    for draft in (dead, alive):
        draft.mkdir()
        (draft / "train.jsonl").write_text("half")
    held = os.open(alive, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        _, fingerprint = write_parts({"train": [Example("p", "c", ("p",), "f", 1)]}, recipe, (), tmp_path)
    finally:
        os.close(held)
    assert {path.name for path in tmp_path.iterdir()} == {alive.name, fingerprint}
