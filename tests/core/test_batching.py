"""Batches: nothing is lost, nothing is padded more than it must be, order is a function of seed and step."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tasks.core.batching import (
    IGNORED,
    PASS_COST,
    Example,
    collate,
    epoch_order,
    lengths_of,
    steps_per_epoch,
    token_batches,
    training_batch,
)
from tasks.core.blocks.length_limits import NO_LIMITS


def example(prompt: int, answer: int, row: int = 0) -> Example:
    return Example(tuple(range(1, prompt + 1)), tuple(range(100, 100 + answer)), row)


def test_collate_by_hand():
    batch = collate([example(2, 1, row=7), example(1, 3, row=9)], pad_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 100, 0], [1, 100, 101, 102]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 100, IGNORED], [IGNORED, 100, 101, 102]]
    assert batch.rows == (7, 9)


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), min_size=1, max_size=60), st.integers(8, 200))
def test_every_row_once_and_within_the_bound(sizes, max_tokens):
    examples = [example(*size) for size in sizes]
    batches = token_batches(lengths_of(examples), max_tokens, NO_LIMITS)
    assert sorted(index for batch in batches for index in batch) == list(range(len(examples)))
    for batch in batches:
        padded = len(batch) * max(examples[index].num_tokens for index in batch)
        assert padded <= max_tokens or len(batch) == 1


def cost(batches, lengths):
    return sum(PASS_COST + len(batch) * max(lengths[index] for index in batch) for batch in batches)


@given(st.lists(st.integers(1, 900), min_size=1, max_size=9), st.integers(600, 3000))
def test_no_other_cut_of_the_sorted_rows_costs_less(lengths, max_tokens):
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    found = token_batches(lengths, max_tokens, NO_LIMITS)
    assert [index for batch in found for index in batch] == order
    every = []
    for cuts in itertools.product((False, True), repeat=len(lengths) - 1):
        places = [0, *(place for place, cut in enumerate(cuts, start=1) if cut), len(lengths)]
        batches = [order[begin:end] for begin, end in itertools.pairwise(places)]
        if all(len(batch) == 1 or len(batch) * lengths[batch[0]] <= max_tokens for batch in batches):
            every.append(cost(batches, lengths))
    assert cost(found, lengths) == min(every)


def test_one_long_row_does_not_pad_all_others():
    lengths = [900, *[50] * 20]
    batches = token_batches(lengths, 100_000, NO_LIMITS)
    assert batches == [[0], list(range(1, 21))]


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 5))
def test_each_epoch_has_every_row_once(num_rows, batch_size, seed):
    per_epoch = steps_per_epoch(num_rows, batch_size)
    for epoch in range(2):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        rows = [row for step in steps for row in training_batch(num_rows, batch_size, seed, step)]
        assert sorted(rows) == list(range(num_rows))
        assert rows == epoch_order(num_rows, seed, epoch)


def test_order_depends_on_seed_and_epoch():
    orders = {tuple(epoch_order(40, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
