"""Data drift: silent on chance, telling on what matters, on labels, lengths, words and repetitions."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from sweeps.scheduling.data_drift import Texts, compare, markdown, read

pytestmark = pytest.mark.unit

LABELS = (" yes\n", " no\n", " maybe\n")


def texts(
    seed: int, count: int = 2000, weights: tuple[int, ...] = (1, 1, 1), words: str = "w", length: int = 8
) -> Texts:
    draw = random.Random(seed)
    prompts, answers = [], []
    for _ in range(count):
        size = max(1, round(draw.gauss(length, 2)))
        prompts.append(" ".join(f"{words}{min(int(draw.paretovariate(0.7)), 900)}" for _ in range(size)))
        answers.append(draw.choices(LABELS, weights)[0])
    return Texts(tuple(prompts), tuple(answers))


def test_new_draws_of_the_same_kind_are_no_drift() -> None:
    told = sum(bool(compare(texts(2 * seed), texts(2 * seed + 1)).words) for seed in range(20))
    assert told == 0


@pytest.mark.parametrize(
    ("now", "word"),
    [
        (texts(2, weights=(2, 1, 1)), "share of the label"),
        (texts(2, length=10), "length of the prompts"),
        (texts(2, words="v"), "words not seen before"),
        (Texts(texts(2).prompts[:1000] * 2, texts(2).completions[:1000] * 2), "repeated prompts"),
    ],
)
def test_what_moved_is_said(now: Texts, word: str) -> None:
    found = compare(texts(1), now)
    assert any(word in each for each in found.words), found.words
    assert len(found.words) == 1, "and nothing else"
    page = markdown(found, "aaa", "bbb")
    assert found.words[0] in page
    assert json.loads(json.dumps(found.to_json()))["words"] == list(found.words)


def test_a_few_examples_say_nothing_for_sure() -> None:
    assert compare(texts(1, 30), texts(2, 30, weights=(2, 1, 1))).words == ()


def test_a_difference_that_is_certain_and_tiny_is_not_told() -> None:
    found = compare(texts(1, 60_000, length=2), texts(2, 60_000, (103, 100, 100), length=2))
    labels = next(each for each in found.compared if "label" in each.name)
    assert labels.distance < 0.02
    assert not labels.matters


def test_the_numbers_are_those_of_the_definitions() -> None:
    before = Texts(("a b",) * 60 + ("c d",) * 40, (" x",) * 60 + (" y",) * 40)
    now = Texts(("a b",) * 40 + ("c e",) * 60, (" x",) * 40 + (" z",) * 60)
    found = compare(before, now)
    assert found.labels == {"x": (0.6, 0.4), "y": (0.4, 0.0), "z": (0.0, 0.6)}
    assert found.kept_examples == 0.4
    assert found.new_words == ("e",)
    labels, words = (next(each for each in found.compared if name in each.name) for name in ("label", "words"))
    assert labels.distance == pytest.approx(0.6)
    assert words.now == pytest.approx(60 / 200)
    assert found.psi == pytest.approx(0.2 * 0.405465 + 0.3999 * 8.29405 + 0.5999 * 8.69951, rel=1e-4)


def test_texts_that_are_no_labels_are_compared_by_their_lengths() -> None:
    many = Texts(texts(1).prompts, tuple(f"answer {each}" for each in range(2000)))
    longer = Texts(texts(2).prompts, tuple(f"answer {each} and more" for each in range(2000)))
    found = compare(many, longer)
    assert found.labels == {}
    assert found.psi is None
    assert [word for word in found.words if "completions" in word]


def test_both_layouts_are_read(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    rows = [{"prompt": "p", "completion": " c", "segments": []}, {"messages": chat}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(file) == Texts(("p", "s\nu"), (" c", "a"))
    with pytest.raises(ValueError, match="no example"):
        compare(read(file), Texts((), ()))


def test_data_cannot_become_markup() -> None:
    found = compare(Texts(("a",) * 9, ("<b>|x",) * 9), Texts(("<i>zz|",) * 9, ("<b>|x",) * 9))
    assert "<b>|" not in markdown(found, "a", "b")
