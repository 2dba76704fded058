"""Laws of nested selection: subsets, every label, proportions, independence of order."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.data.nested_selection import nested_sample, successive_seats
from sweeps.data.split import apportion_seats

pytestmark = pytest.mark.unit

examples = st.lists(st.tuples(st.integers(0, 40).map(str), st.sampled_from("abcd")), min_size=1, max_size=80)
seeds = st.integers(0, 2**32)


@given(pairs=examples, seed=seeds)
def test_each_selection_contains_all_smaller_ones(pairs, seed):
    prompts, labels = zip(*pairs, strict=True)
    selections = [set(nested_sample(prompts, labels, count, seed)) for count in range(len(pairs) + 2)]
    assert [len(selection) for selection in selections] == [*range(len(pairs) + 1), len(pairs)]
    for smaller, larger in itertools.pairwise(selections):
        assert smaller <= larger


def test_the_seats_of_a_split_are_not_nested():
    # Why this module exists: with one seat more, `c` loses one ("Alabama paradox").
    counts = {"a": 6, "b": 6, "c": 2}
    assert apportion_seats(counts, 10)["c"] == 2
    assert apportion_seats(counts, 11)["c"] == 1


@given(counts=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 500), min_size=1), share=st.floats(0, 1))
def test_seats_are_nearly_proportional_and_every_label_has_one(counts, share):
    total = round(share * sum(counts.values()))
    seats = successive_seats(counts, total)
    assert sum(seats.values()) == total
    assert all(seats[name] <= count for name, count in counts.items())
    if total >= len(counts):
        assert min(seats.values()) >= 1
        exact = {name: total * count / sum(counts.values()) for name, count in counts.items()}
        # The first seats are given away before any proportion counts.
        assert all(abs(seats[name] - exact[name]) < len(counts) + 1 for name in counts)


@given(pairs=examples, seed=seeds, data=st.data())
def test_the_order_of_the_file_does_not_matter(pairs, seed, data):
    shuffled = data.draw(st.permutations(pairs))
    count = data.draw(st.integers(0, len(pairs)))
    chosen = [
        Counter(listed[index] for index in nested_sample(*zip(*listed, strict=True), count, seed))
        for listed in (pairs, shuffled)
    ]
    assert Counter(label for _, label in chosen[0].elements()) == Counter(label for _, label in chosen[1].elements())
    if len(set(pairs)) == len({prompt for prompt, _ in pairs}):
        assert chosen[0] == chosen[1]


def test_balanced_labels_stay_balanced():
    labels = ["x", "y", "z"] * 100
    prompts = [str(number) for number in range(300)]
    for count in (10, 100, 299):
        counted = Counter(labels[index] for index in nested_sample(prompts, labels, count, 7))
        assert max(counted.values()) - min(counted.values()) <= 1
