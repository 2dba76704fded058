"""Data drift: chance is not reported; changes of labels, lengths, words and repetitions are."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from backends import codec
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


def test_two_samples_of_one_distribution_are_no_drift() -> None:
    assert [compare(texts(2 * seed), texts(2 * seed + 1)).sentences for seed in range(20)] == [()] * 20


@pytest.mark.parametrize(
    ("now", "phrase"),
    [
        (texts(2, weights=(2, 1, 1)), "share of the label"),
        (texts(2, length=10), "length of the prompts"),
        (texts(2, words="v"), "share of new words"),
        (Texts(texts(2).prompts[:1000] * 2, texts(2).completions[:1000] * 2), "repeated prompts"),
    ],
)
def test_one_sentence_says_what_changed(now: Texts, phrase: str) -> None:
    drift = compare(texts(1), now)
    [sentence] = drift.sentences
    assert phrase in sentence
    assert sentence in markdown(drift, "aaa", "bbb")
    written = json.loads(json.dumps(codec.to_json(drift)))
    assert written["words"] == [sentence]
    assert [difference["matters"] for difference in written["compared"]].count(True) == 1
    assert set(written["compared"][0]) == {"name", "before", "now", "distance", "chance", "matters"}


def test_a_few_examples_prove_nothing() -> None:
    assert compare(texts(1, 30), texts(2, 30, weights=(2, 1, 1))).sentences == ()


def test_a_significant_but_tiny_difference_is_not_reported() -> None:
    drift = compare(texts(1, 60_000, length=2), texts(2, 60_000, (107, 100, 100), length=2))
    labels = next(difference for difference in drift.differences if "label" in difference.name)
    assert labels.p_value is not None
    assert labels.p_value < 0.005
    assert labels.distance < 0.02
    assert not labels.matters


def test_the_numbers_follow_their_definitions() -> None:
    before = Texts(("a b",) * 60 + ("c d",) * 40, (" x",) * 60 + (" y",) * 40)
    now = Texts(("a b",) * 40 + ("c e",) * 60, (" x",) * 40 + (" z",) * 60)
    drift = compare(before, now)
    assert drift.labels == {"x": (0.6, 0.4), "y": (0.4, 0.0), "z": (0.0, 0.6)}
    assert drift.kept_examples == 0.4
    assert drift.new_words == ("e",)
    labels, words = (
        next(difference for difference in drift.differences if name in difference.name) for name in ("label", "words")
    )
    assert labels.distance == pytest.approx(0.6)
    assert words.now == pytest.approx(60 / 200)
    assert drift.psi == pytest.approx(0.2 * 0.405465 + 0.3999 * 8.29405 + 0.5999 * 8.69951, rel=1e-4)


def test_completions_with_many_values_are_compared_by_their_lengths() -> None:
    many = Texts(texts(1).prompts, tuple(f"answer {number}" for number in range(2000)))
    longer = Texts(texts(2).prompts, tuple(f"answer {number} and more" for number in range(2000)))
    drift = compare(many, longer)
    assert drift.labels == {}
    assert drift.psi is None
    assert [sentence for sentence in drift.sentences if "completions" in sentence]


def test_prompts_and_chats_are_read(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    rows = [{"prompt": "p", "completion": " c", "segments": []}, {"messages": chat}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(file) == Texts(("p", "s\nu"), (" c", "a"))
    with pytest.raises(ValueError, match="no example"):
        compare(read(file), Texts((), ()))


def test_data_cannot_become_markup() -> None:
    drift = compare(Texts(("a",) * 9, ("<b>|x",) * 9), Texts(("<i>zz|",) * 9, ("<b>|x",) * 9))
    assert "<b>|" not in markdown(drift, "a", "b")
