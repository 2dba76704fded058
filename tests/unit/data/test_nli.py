"""builtin:nli: deterministic, balanced, disjoint splits, and not solvable by counting words."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer

from sweeps.data.builtin.nli import (
    ANY_ACT,
    ANY_THING,
    DECIDING_SIGN,
    LABELS,
    RELATION_WEIGHTS,
    Aspect,
    Event,
    Label,
    aspect_relations,
    draw_events,
    draw_pair,
    generate,
    is_reserved,
)
from sweeps.data.builtin.nli_words import SPLITS, Split, Words, words_of

pytestmark = pytest.mark.unit

Records = list[dict[str, str]]


@pytest.fixture(scope="module")
def train() -> Records:
    return generate("train", 3000, seed=7)


@pytest.fixture(scope="module")
def valid() -> Records:
    return generate("valid", 1500, seed=7)


def pairs(records: Records) -> list[tuple[str, str]]:
    return [(record["premise"], record["hypothesis"]) for record in records]


def labels(records: Records) -> list[str]:
    return [record["label"] for record in records]


VIEWS: dict[str, Callable[[Records], list[str]]] = {
    "premise": lambda records: [record["premise"] for record in records],
    "hypothesis": lambda records: [record["hypothesis"] for record in records],
    "as one text": lambda records: [f"{record['premise']} {record['hypothesis']}" for record in records],
}


@given(split=st.sampled_from(SPLITS), size=st.integers(0, 60), more=st.integers(0, 40), seed=st.integers(0, 10**9))
@settings(max_examples=40, deadline=None)
def test_a_smaller_set_is_the_balanced_beginning_of_a_larger_one(split: Split, size: int, more: int, seed: int) -> None:
    small, large = generate(split, size, seed), generate(split, size + more, seed)
    assert len(small) == size
    assert large[:size] == small
    counts = Counter(labels(small))
    assert max(counts.values(), default=0) - min(counts[label] for label in LABELS) <= 1
    assert set(counts) <= set(LABELS)
    assert all(set(record) == {"premise", "hypothesis", "label"} for record in small)


def test_seeds_give_different_pairs(valid: Records) -> None:
    assert generate("valid", 1500, seed=7) == valid
    assert len(set(pairs(valid)) & set(pairs(generate("valid", 1500, seed=8)))) < 100


def test_no_pair_occurs_twice(train: Records, valid: Records) -> None:
    assert len(set(pairs(train))) == len(train)
    assert all(premise != hypothesis for premise, hypothesis in pairs(train))
    records_by_split = (train, valid, generate("test", 1500, seed=7))
    premises = [{record["premise"] for record in records} for records in records_by_split]
    assert not premises[0] & premises[1]
    assert not premises[0] & premises[2]
    assert not premises[1] & premises[2]


def test_every_premise_of_a_split_has_a_word_that_no_other_split_has() -> None:
    texts = {split: [record["premise"] for record in generate(split, 1000, seed=1)] for split in SPLITS}
    words = {split: {word for text in texts[split] for word in re.findall(r"\w+", text.lower())} for split in SPLITS}
    for split in SPLITS:
        others = set.union(*(words[other] for other in SPLITS if other != split))
        assert all(set(re.findall(r"\w+", text.lower())) - others for text in texts[split])
        assert len(words[split] - others) > 40


def test_each_split_has_a_sentence_pattern_of_its_own() -> None:
    patterns = [words_of(split).patterns for split in SPLITS]
    assert len({pattern for own in patterns for pattern in own}) == sum(map(len, patterns)) == 3


def test_label_noise_replaces_the_requested_share_of_labels_and_nothing_else() -> None:
    clean, noisy = generate("train", 400, 3), generate("train", 400, 3, label_noise=0.25)
    assert pairs(clean) == pairs(noisy)
    assert sum(one != other for one, other in zip(labels(clean), labels(noisy), strict=True)) == 100
    assert generate("train", 400, 3, label_noise=0.25) == noisy


@pytest.mark.parametrize(("examples", "label_noise"), [(-1, 0.0), (3, -0.1), (3, 1.5)])
def test_unusable_numbers_are_refused(examples: int, label_noise: float) -> None:
    with pytest.raises(ValueError, match="must"):
        generate("train", examples, 0, label_noise)


@pytest.mark.parametrize("vectorizer", [CountVectorizer(), TfidfVectorizer(ngram_range=(1, 2))], ids=["count", "tfidf"])
@pytest.mark.parametrize("strength", [0.1, 1, 10])
def test_words_and_their_counts_do_not_solve_the_task(
    train: Records, valid: Records, vectorizer: CountVectorizer, strength: float
) -> None:
    def accuracy(*views: str) -> float:
        """Fit one linear model on the words of all views, with a vocabulary for each view."""
        words = make_union(*(make_pipeline(FunctionTransformer(VIEWS[view]), clone(vectorizer)) for view in views))
        model = make_pipeline(words, LogisticRegression(C=strength, max_iter=1000))
        return float(model.fit(train, labels(train)).score(valid, labels(valid)))

    assert accuracy("premise") < 0.45
    assert accuracy("hypothesis") < 0.45
    assert accuracy("as one text") < 0.5
    assert accuracy("premise", "hypothesis") < 0.6


@pytest.mark.parametrize("aspect", RELATION_WEIGHTS)
def test_each_sentence_mentions_an_aspect_about_equally_often_under_every_label(aspect: Aspect) -> None:
    for side in ("premise", "hypothesis"):
        counts = [Counter[int]() for _ in LABELS]
        for label, count in zip(LABELS, counts, strict=True):
            for relation, weight in aspect_relations(aspect, label).items():
                count[getattr(relation, side)] += weight
        assert all(count.total() == 20 for count in counts)
        for one, other in itertools.combinations(counts, 2):
            assert all(abs(one[level] - other[level]) <= 5 for level in range(3))


@pytest.mark.parametrize("label", LABELS)
def test_exactly_one_aspect_decides_a_label(label: Label) -> None:
    deciding = 0
    for aspect in RELATION_WEIGHTS:
        for relation, weight in aspect_relations(aspect, label).items():
            less, same = relation.hypothesis < relation.premise, relation.hypothesis == relation.premise
            deciding += weight if relation.sign == DECIDING_SIGN[label] else 0
            if relation.sign == "!":
                assert label == "contradiction"
                assert min(relation.premise, relation.hypothesis) > 0
            elif relation.sign == "?":  # acts neither imply nor exclude each other, not even seeing
                assert label != "entailment"
                assert not same
                assert aspect == "act" or not less
            else:
                assert relation.sign == ("=" if same else ">")
                assert same or (less and aspect != "act")
    assert deciding == 20


def relation_sign(aspect: Aspect, premise: str, hypothesis: str, words: Words) -> str:
    """Return the sign of the relation between the words of premise and hypothesis."""
    if premise == hypothesis:
        return "="
    if aspect in ("act", "quality"):
        if words.opposite.get(premise) == hypothesis:
            return "!"
        return ">" if hypothesis == "" else "?"
    kinds = words.things if aspect == "thing" else words.places
    nothing = ANY_THING if aspect == "thing" else ""
    if nothing in (premise, hypothesis):
        return ">" if hypothesis == nothing else "?"
    if hypothesis in kinds.get(premise, ()):
        return "?"
    return ">" if premise in kinds.get(hypothesis, ()) else "!"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("label", LABELS)
def test_the_words_alone_determine_the_label(split: Split, label: Label) -> None:
    rng, words = Random(1), words_of(split)
    for _ in range(2000):
        premise, hypothesis, deciding = draw_events(rng, words, label)
        assert premise.name == hypothesis.name
        signs = {
            aspect: relation_sign(aspect, getattr(premise, aspect), getattr(hypothesis, aspect), words)
            for aspect in RELATION_WEIGHTS
        }
        assert [aspect for aspect, sign in signs.items() if sign == DECIDING_SIGN[label]] == [deciding]
        assert (
            set(signs.values()) <= {"entailment": set("=>"), "neutral": set("=>?"), "contradiction": set("=>?!")}[label]
        )


def test_overlap_and_length_do_not_solve_the_task(train: Records, valid: Records) -> None:
    def features(records: Records) -> list[list[float]]:
        rows = []
        for premise, hypothesis in pairs(records):
            said, claimed = (set(re.findall(r"\w+", text.lower())) for text in (premise, hypothesis))
            rows.append([len(said), len(claimed), len(claimed - said), len(claimed & said) / len(claimed)])
        return rows

    model = GradientBoostingClassifier(random_state=0).fit(features(train), labels(train))
    assert model.score(features(valid), labels(valid)) < 0.65


@pytest.mark.parametrize("split", SPLITS)
def test_one_pair_never_has_two_labels(split: Split) -> None:
    rng, words = Random(0), words_of(split)
    drawn = {label: {draw_pair(rng, words, label) for _ in range(4000)} for label in LABELS}
    assert not drawn["entailment"] & drawn["contradiction"]
    assert not drawn["entailment"] & drawn["neutral"]
    assert not drawn["contradiction"] & drawn["neutral"]


def test_vague_words_occur_with_every_label(train: Records) -> None:
    for word in (ANY_THING, ANY_ACT):
        seen = {record["label"] for record in train if f" {word}" in record["premise"]}
        assert seen == set(LABELS)


def test_sentences_are_grammatical() -> None:
    event = Event("Anna", "hiding", "apple", "in the attic", "old")
    assert event.sentence() == "Anna is hiding an old apple in the attic."
    assert event.sentence("place_first") == "In the attic, Anna is hiding an old apple."
    assert event.sentence("there_is") == "There is an old apple that Anna is hiding in the attic."
    assert Event("Ida", "showing", "rose").sentence("place_first") == "Now Ida is showing a rose."


def test_about_half_of_the_premises_are_left_to_pre_training(valid: Records) -> None:
    assert all(is_reserved(record["premise"]) for record in valid)
    words, rng = words_of(*SPLITS), Random(0)
    free = sum(not is_reserved(draw_pair(rng, words, "neutral")[0]) for _ in range(1000))
    assert 400 < free < 600


def test_asking_for_more_pairs_than_exist_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.data.builtin.nli.is_reserved", lambda premise: False)
    monkeypatch.setattr("sweeps.data.builtin.nli._MAX_ATTEMPTS", 5)
    with pytest.raises(ValueError, match="fewer examples"):
        generate("train", 1, 0)
