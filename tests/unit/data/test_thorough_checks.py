"""The thorough checks: what each one reports, where, and that clean data has no finding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from random import Random

import pytest
from data_views import clean_view, example, rows, sentences, view
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeps.data.checks import THOROUGH, DataView
from sweeps.data.checks.affixes import check_affixes
from sweeps.data.checks.bayes import cross_validated, text_features
from sweeps.data.checks.catalogue import CHECKS
from sweeps.data.checks.classes import check_classes
from sweeps.data.checks.conflicts import check_conflicting_variants
from sweeps.data.checks.decoding import check_decoding
from sweeps.data.checks.drift import check_drift, kolmogorov_smirnov
from sweeps.data.checks.dropping import faulty_places
from sweeps.data.checks.groups import check_groups
from sweeps.data.checks.label_spelling import check_label_typos, check_null_values
from sweeps.data.checks.lengths import check_lengths
from sweeps.data.checks.mislabelled import check_mislabelled, suspected
from sweeps.data.checks.personal_data import check_personal_data, personal_data_in
from sweeps.data.checks.style import check_style, script_of
from sweeps.data.examples import Example
from sweeps.data.findings import MAX_PLACES, Finding

pytestmark = pytest.mark.unit

Check = Callable[[DataView], Iterator[Finding]]


def changed(data: DataView, part: str, numbers: Iterable[int], change: Callable[[Example], Example]) -> DataView:
    """Return a set with some examples of a part changed."""
    items = list(data.parts[part])
    for number in numbers:
        items[number] = change(items[number])
    parts = {**data.parts, part: items}
    labels = tuple(sorted({item.completion for item in parts["train"]})) if data.labels else ()
    return DataView(parts, data.recipe, labels, data.published, data.seed)


def with_text(edit: Callable[[str], str]) -> Callable[[Example], Example]:
    return lambda item: example(edit(item.segments[0]), item.completion[1:-1], item.line, item.file, item.group)


def with_answer(edit: Callable[[str], str]) -> Callable[[Example], Example]:
    return lambda item: example(item.segments[0], edit(item.completion[1:-1]), item.line, item.file)


def codes(check: Check, data: DataView) -> list[tuple[str, int, str]]:
    return [(finding.code, finding.count, finding.place) for finding in check(data)]


@pytest.mark.parametrize("labels", [True, False])
def test_clean_data_has_no_findings(labels: bool) -> None:
    assert [finding for check in THOROUGH for finding in check(clean_view(labels))] == []


@pytest.mark.parametrize(
    ("check", "part", "change", "expected", "labels"),
    [
        (check_null_values, "train", with_answer(lambda text: "NaN"), "null-value", True),
        (check_null_values, "valid", with_text(lambda text: "None"), "null-value", True),
        (check_style, "train", with_text(lambda text: f"{text} "), "surrounding-space", True),
        (check_style, "train", with_answer(lambda text: f" {text}"), "leading-space", False),
        (check_style, "train", with_answer(str.lower), "first-letter", False),
        (check_style, "train", with_answer(lambda text: text.rstrip(".")), "end-punctuation", False),
        (check_style, "train", with_text(lambda text: "Сколько книг осталось?"), "mixed-scripts", True),
        (check_style, "train", with_answer(lambda text: "一共还剩下多少本书？"), "mixed-scripts", False),
        (check_lengths, "train", with_text(lambda text: text * 50), "length-outlier", True),
        (check_lengths, "train", with_answer(lambda text: text * 50), "length-outlier", False),
        (check_decoding, "train", with_text(lambda text: f"{text} cafÃ©"), "mojibake", True),
        (check_personal_data, "test", with_text(lambda text: f"{text} jo@mail.org"), "personal-data", True),
        (check_personal_data, "test", with_text(lambda text: f"{text} sk-{'a1B2' * 6}"), "secret", True),
    ],
)
def test_a_fault_in_four_examples_is_found_at_its_four_places(
    check: Check, part: str, change: Callable[[Example], Example], expected: str, labels: bool
) -> None:
    numbers = (11, 22, 33, 44)
    data = changed(clean_view(labels), part, numbers, change)
    (found,) = [finding for finding in check(data) if finding.code == expected]
    places = tuple(f"{part}.csv:{number + 2}" for number in numbers)
    assert (found.severity, found.count, found.place, found.places) == ("warning", 4, places[0], places)


def test_places_are_at_most_ten_but_all_can_be_had_for_dropping() -> None:
    data = changed(clean_view(), "train", range(0, 60, 2), with_text(lambda text: f"{text} jo@mail.org"))
    (found,) = check_personal_data(data)
    assert (found.count, len(found.places)) == (30, MAX_PLACES)
    places = faulty_places([check_personal_data(data), check_groups(data)], ["personal-data", "group-overlap"])
    assert places == {"personal-data": {f"train.csv:{n + 2}" for n in range(0, 60, 2)}, "group-overlap": set()}


def test_a_group_in_two_parts_is_counted_in_the_later_one() -> None:
    train = [example(f"text {n}", "a", n, group=f"user {n // 2}") for n in range(8)]
    valid = [example(f"other {n}", "a", n, "valid.csv", group=f"user {n + 3}") for n in range(4)]
    (found,) = check_groups(view(train, [*valid, example("x", "a", 9, "valid.csv")]))
    assert (found.code, found.count, found.place) == ("group-overlap", 1, "valid.csv:0")
    assert "'user 3'" in found.message


def test_prompts_that_differ_in_case_or_a_space_with_two_labels_are_a_conflict() -> None:
    data = view(rows([("Free entry!", "spam"), ("see you", "ham"), ("free entry ", "ham"), ("See you", "ham")]))
    (found,) = check_conflicting_variants(data)
    assert (found.code, found.count, found.place) == ("conflicting-variants", 1, "train.csv:4")
    assert "contradicts line 2" in found.message


@pytest.mark.parametrize(
    ("typo", "meant"), [("neutrl", "neutral"), ("HUMM", "HUM"), ("DESC.", "DESC"), ("entailmnet", "entailment")]
)
def test_a_rare_label_like_a_frequent_one_is_a_typing_error(typo: str, meant: str) -> None:
    data = view(rows([(f"text {n}", meant if n % 2 else "other") for n in range(90)] + [("odd", typo)]))
    (found,) = check_label_typos(data)
    assert (found.code, found.count, found.place) == ("label-typo", 1, "train.csv:92")
    assert f"{typo!r} looks like a typing error of {meant!r}" in found.message


@pytest.mark.parametrize(("rare", "frequent"), [("NUM", "HUM"), ("4 stars", "5 stars"), ("B", "A"), ("no", "now")])
def test_short_labels_and_numbers_are_no_typing_errors(rare: str, frequent: str) -> None:
    data = view(rows([(f"text {n}", frequent if n % 2 else "another") for n in range(90)] + [("odd", rare)]))
    assert list(check_label_typos(data)) == []


def test_two_similar_labels_that_are_both_frequent_are_no_typing_errors() -> None:
    assert list(check_label_typos(view(rows([(f"t {n}", "planet" if n % 2 else "planes") for n in range(90)])))) == []


def test_none_as_a_class_of_many_examples_is_no_null_value() -> None:
    assert list(check_null_values(view(rows([(f"t {n}", "none" if n % 2 else "alarm") for n in range(90)])))) == []


def test_missing_and_rare_classes_are_named_for_each_part() -> None:
    train = rows([(f"t {n}", "abc"[n % 3]) for n in range(300)] + [(f"r {n}", "rare") for n in range(4)])
    valid = rows([(f"v {n}", "ab"[n % 2]) for n in range(40)] + [("w", "c")], "valid.csv")
    found = [(finding.code, finding.count, finding.message) for finding in check_classes(view(train, valid))]
    assert found == [
        ("rare-class", 1, "train has fewer than 10 examples of 'rare'"),
        ("class-missing", 1, "valid has no example of 'rare'"),
        ("rare-class", 1, "valid has fewer than 3 examples of 'c'"),
    ]


def test_few_examples_for_many_classes_are_reported() -> None:
    data = view(rows([(f"t {n}", f"class {n % 20}") for n in range(400)]))
    assert codes(check_classes, data) == [("few-per-class", 1, "train.csv")]


def test_validation_of_other_lengths_labels_words_or_formats_is_drift() -> None:
    clean = clean_view()
    everything = range(60)
    short = changed(clean, "valid", everything, with_text(lambda text: text[:20]))
    assert "length-drift" in {code for code, _, _ in codes(check_drift, short)}
    one = changed(clean, "valid", everything, with_answer(lambda text: "sports"))
    assert [code for code, _, _ in codes(check_drift, one)] == ["label-drift"]
    foreign = changed(clean, "valid", everything, with_text(lambda text: text.replace("e", "ë")))
    assert "vocabulary-drift" in {code for code, _, _ in codes(check_drift, foreign)}
    lower = changed(clean, "valid", everything, with_text(str.lower))
    assert [code for code, _, _ in codes(check_drift, lower)] == ["format-drift"]


def test_the_distance_of_two_samples_is_that_of_scipy() -> None:
    from scipy.stats import ks_2samp

    random = Random(4)
    first, second = [random.gauss(0, 1) for _ in range(400)], [random.gauss(0.15, 1) for _ in range(300)]
    expected = ks_2samp(first, second, method="asymp")
    distance, p_value = kolmogorov_smirnov(first, second)
    assert distance == pytest.approx(expected.statistic)
    assert p_value == pytest.approx(expected.pvalue, rel=0.5)  # scipy corrects it for the size


def test_long_prompts_get_advice_about_the_weight_of_their_loss() -> None:
    data = view(rows([(text * 8, "a" if len(text) % 2 else "b") for text in sentences(60)]))
    (found,) = [finding for finding in check_lengths(data) if finding.code == "prompt-heavy"]
    assert "prompt_loss_weight" in found.hint


def test_texts_that_all_examples_share_are_reported() -> None:
    texts = sentences(40)
    prefixed = view(rows([(f"Classify this message: {text}", "ab"[n % 2]) for n, text in enumerate(texts)]))
    assert codes(check_affixes, prefixed) == [("common-prompt-prefix", 40, "train.csv")]
    ended = view(rows([(f"{text} =>>", "ab"[n % 2]) for n, text in enumerate(texts)]))
    assert codes(check_affixes, ended) == [("common-prompt-suffix", 40, "train.csv")]
    answered = view(rows([(text, f"The answer is {n}") for n, text in enumerate(texts)]), labels=False)
    assert codes(check_affixes, answered) == [("common-completion-prefix", 40, "train.csv")]
    structured = view(rows([(text, f'{{"value": {n}}}') for n, text in enumerate(texts)]), labels=False)
    assert codes(check_affixes, structured) == []


def test_upper_case_texts_are_reported() -> None:
    data = view(rows([(text.upper(), "ab"[n % 2]) for n, text in enumerate(sentences(60))]))
    assert codes(check_style, data) == [("upper-case", 60, "train.csv:2")]


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Hello there", "Latin"),
        ("Привет, мир", "Cyrillic"),
        ("これは日本語です", "Chinese or Japanese"),
        ("12 + 30", ""),
    ],
)
def test_the_script_of_a_text(text: str, script: str) -> None:
    assert script_of(text) == script


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to anna.b@mail.example.org", ["an e-mail address"]),
        ("call +44 20 7946 0018 now", ["a telephone number"]),
        ("call (212) 555-0147", ["a telephone number"]),
        ("Txt 08712402972", ["a telephone number"]),
        ("card 5500 0055 5555 5559", ["a credit card number"]),
        ("DE89 3704 0044 0532 0130 00", ["an IBAN"]),
        ("DE88 3704 0044 0532 0130 00", []),
        ("card 5500 0055 5555 5558", []),
        ("jo@example.com", []),
        ("She sold 1200 apples, 340 pears and 12.5 kg of 2024-11-30 plums for 1,000,000.", []),
        ("pi is 3.14159265358979 and 2 ** 64 = 18446744073709551616", []),
    ],
)
def test_personal_data_is_told_from_other_numbers(text: str, kinds: list[str]) -> None:
    assert list(personal_data_in(text)) == kinds


@pytest.mark.parametrize(
    "secret",
    [
        "sk-" + "aB3" * 8,
        "AKIA" + "ABCD1234EFGH5678",
        "ghp_" + "a1B2" * 9,
        "-----BEGIN RSA PRIVATE KEY-----",
        "hf_" + "aB" * 17,
    ],
)
def test_a_secret_is_reported_and_never_shown(secret: str) -> None:
    (found,) = check_personal_data(view(rows([("hello", "a"), (f"use {secret} here", "b")])))
    assert (found.code, found.place) == ("secret", "train.csv:3")
    assert secret[8:] not in f"{found.message}{found.hint}"


def topics(count: int, seed: int = 3) -> tuple[list[str], list[str]]:
    """Return texts whose words decide their label, with a few words that do not."""
    random = Random(seed)
    words = {
        "sports": ["goal", "match", "team", "striker", "referee", "stadium", "league", "coach", "penalty", "score"],
        "cooking": ["flour", "oven", "butter", "recipe", "simmer", "garlic", "saucepan", "whisk", "dough", "salt"],
        "finance": ["bond", "market", "dividend", "share", "interest", "bank", "loan", "index", "fund", "credit"],
    }
    labels = [random.choice(list(words)) for _ in range(count)]
    common = ["the", "of", "and", "with", "for", "today", "many", "some", "new", "very"]
    texts = [" ".join(random.choices(words[label] * 2 + common, k=9)) for label in labels]
    return texts, labels


def test_most_wrong_labels_are_suspected_and_few_right_ones() -> None:
    texts, labels = topics(600)
    assert suspected(texts, labels) == []
    random = Random(1)
    wrong = set(random.sample(range(600), 30))
    noisy = [
        random.choice([n for n in set(labels) if n != label]) if i in wrong else label for i, label in enumerate(labels)
    ]
    found = suspected(texts, noisy)
    suspects = {index for index, _ in found}
    assert len(suspects & wrong) >= 27
    assert len(suspects - wrong) <= 3
    assert sum(meant == labels[index] for index, meant in found) >= 27
    (finding,) = check_mislabelled(view(rows(zip(texts, noisy, strict=True))))
    assert (finding.code, finding.count) == ("mislabelled", len(found))


def test_nothing_is_suspected_where_words_do_not_decide_the_label() -> None:
    texts, _ = topics(300)
    random = Random(2)
    assert suspected(texts, [random.choice("ab") for _ in texts]) == []
    assert suspected(["same"] * 40, ["a"] * 39 + ["b"]) == []
    assert suspected(["", ""] * 20, ["a", "b"] * 20) == []


def test_naive_bayes_predicts_as_scikit_learn_does() -> None:
    import numpy as np
    from sklearn.naive_bayes import MultinomialNB

    texts, labels = topics(200)
    names = sorted(set(labels))
    given = np.array([names.index(label) for label in labels])
    data = text_features(texts)
    ours = cross_validated(data, given, len(names), np.ones(len(given), dtype=bool))
    matrix = np.zeros((data.rows, data.columns))
    matrix[data.texts, data.features] = data.weights
    folds = np.empty(len(given), dtype=int)
    folds[np.argsort(given, kind="stable")] = np.arange(len(given)) % 5
    for fold in range(5):
        known = folds != fold
        model = MultinomialNB(alpha=0.1).fit(matrix[known], given[known])
        assert (model.predict(matrix[~known]) == ours[~known].argmax(axis=1)).all()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.lists(st.text(max_size=40), min_size=1, max_size=6),
    answers=st.lists(st.text(max_size=12), min_size=1, max_size=4),
    labels=st.booleans(),
    seed=st.integers(0, 9),
)
def test_no_text_makes_a_check_fail(texts: list[str], answers: list[str], labels: bool, seed: int) -> None:
    random = Random(seed)
    parts = [
        rows([(" ".join(random.choices(texts, k=3)), random.choice(answers)) for _ in range(count)], f"{part}.csv")
        for part, count in (("train", 60), ("valid", 35), ("test", 1))
    ]
    for check in THOROUGH:
        for finding in check(view(*parts, labels=labels)):
            assert finding.code in CHECKS
            assert finding.severity == "warning"
            assert finding.count >= len(finding.places) <= MAX_PLACES
            assert finding.message.encode()
