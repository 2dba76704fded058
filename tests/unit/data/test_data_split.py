"""Laws of split and selection: partition, groups, proportions, seeds, independence of order."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.data.split import apportion_seats, split, stratified_sample

pytestmark = pytest.mark.unit

examples = st.lists(st.tuples(st.integers(0, 40).map(str), st.sampled_from("abc")), min_size=1, max_size=80)
distinct = st.lists(st.sampled_from("abc"), min_size=1, max_size=80)
several_of_each = st.permutations(list("aaabbbccc")).flatmap(
    lambda kept: st.lists(st.sampled_from("abc"), max_size=60).map(lambda more: kept + more)
)
fractions = st.fixed_dictionaries({"valid": st.floats(0.05, 0.4), "test": st.floats(0, 0.4)})
seeds = st.integers(0, 2**32)


@given(pairs=examples, shares=fractions, seed=seeds)
def test_a_split_partitions_the_set_and_keeps_equal_prompts_together(pairs, shares, seed):
    prompts, labels = zip(*pairs, strict=True)
    parts = split(prompts, labels, shares, seed)
    assert set(parts) == {"train", "valid", "test"}
    assert sorted(index for indices in parts.values() for index in indices) == list(range(len(pairs)))
    assert all(indices == sorted(indices) for indices in parts.values())
    homes = [{prompts[index] for index in indices} for indices in parts.values()]
    assert sum(map(len, homes)) == len(set(prompts))


@given(pairs=examples, shares=fractions, seed=seeds)
def test_training_has_every_label(pairs, shares, seed):
    prompts, labels = zip(*pairs, strict=True)
    train = split(prompts, labels, shares, seed)["train"]
    assert {labels[index] for index in train} == set(labels)


@given(labels=several_of_each, share=st.floats(0.12, 0.5), seed=seeds)
def test_labels_are_divided_in_proportion_within_one(labels, share, seed):
    counts = Counter(labels)
    prompts = [str(number) for number in range(len(labels))]
    valid = Counter(labels[index] for index in split(prompts, labels, {"valid": share}, seed)["valid"])
    total = round(share * len(labels))
    assert valid.total() == total
    for label, count in counts.items():
        assert abs(valid[label] - total * count / len(labels)) < 1


@given(pairs=examples, shares=fractions, seed=seeds, order=st.randoms(use_true_random=False))
def test_the_order_of_the_file_does_not_matter(pairs, shares, seed, order):
    shuffled = list(pairs)
    order.shuffle(shuffled)
    divided = []
    for order_of_pairs in (pairs, shuffled):
        prompts, labels = zip(*order_of_pairs, strict=True)
        parts = split(prompts, labels, shares, seed)
        divided.append({part: sorted(order_of_pairs[index] for index in indices) for part, indices in parts.items()})
    assert divided[0] == divided[1]


@given(labels=st.lists(st.sampled_from("ab"), min_size=30, max_size=60), seed=seeds)
def test_the_test_part_does_not_change_the_validation_part(labels, seed):
    prompts = [str(number) for number in range(len(labels))]
    alone = split(prompts, labels, {"valid": 0.2}, seed)["valid"]
    assert split(prompts, labels, {"valid": 0.2, "test": 0.3}, seed)["valid"] == alone


def test_another_seed_gives_another_split():
    prompts = [str(number) for number in range(100)]
    assert split(prompts, ["a"] * 100, {"valid": 0.2}, 1) != split(prompts, ["a"] * 100, {"valid": 0.2}, 2)


def test_training_gets_back_a_rare_label_that_shares_its_prompt_with_a_rarer_one():
    prompts = ["both"] * 3 + ["rarest"] + [str(number) for number in range(20)]
    labels = ["rare", "rare", "rarest", "rarest"] + ["often"] * 20
    for seed in range(40):
        train = split(prompts, labels, {"valid": 0.4}, seed)["train"]
        assert {labels[index] for index in train} == {"rare", "rarest", "often"}


@given(labels=distinct, count=st.integers(1, 80), seed=seeds)
def test_a_selection_has_the_requested_size_and_every_label(labels, count, seed):
    prompts = [str(number) for number in range(len(labels))]
    chosen = stratified_sample(prompts, labels, count, seed)
    assert len(set(chosen)) == len(chosen) == min(count, len(labels))
    assert chosen == sorted(chosen) == stratified_sample(prompts, labels, count, seed)
    if count >= len(set(labels)):
        assert {labels[index] for index in chosen} == set(labels)


def test_a_larger_selection_contains_the_smaller_one():
    prompts, labels = [str(number) for number in range(1000)], ["a", "b"] * 500
    assert set(stratified_sample(prompts, labels, 100, 7)) < set(stratified_sample(prompts, labels, 400, 7))


@given(
    counts=st.dictionaries(st.text(max_size=2), st.integers(0, 50), min_size=1, max_size=8), total=st.integers(0, 300)
)
def test_apportionment_is_exact_bounded_and_within_one(counts, total):
    available = sum(counts.values())
    seats = apportion_seats(counts, total)
    assert sum(seats.values()) == min(total, available)
    for name, count in counts.items():
        assert 0 <= seats[name] <= count
        assert available == 0 or abs(seats[name] - min(total, available) * count / available) < 1
