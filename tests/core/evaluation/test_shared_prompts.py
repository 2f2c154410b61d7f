"""Prompts that several requests begin with run once: every family's numbers stay, and passes keep their bounds."""

import itertools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from tasks.core.batching import PASS_COST
from tasks.core.blocks.length_limits import NO_LIMITS, LengthLimits, length_limits
from tasks.core.blocks.surgery import with_layout
from tasks.core.evaluation.likelihoods import score_tokens
from tasks.core.evaluation.prompt_trees import LONGEST, longest_tree, tree_batch, tree_length
from tasks.core.evaluation.scoring_pass import Group, Ids, ScoringPass
from tasks.core.evaluation.scoring_states import can_share_prompts
from tasks.core.evaluation.shared_prompts import MIN_SAVED, _plain_passes, pays, scoring_passes, shared_passes
from tasks.core.plan.layout import fixed_plan
from tests.core.evaluation.test_batch_invariance import EVERY, ROTARY, network
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, tiny_model, token_ids

CONTEXT = 64
# Recurrent blocks keep no keys and values; the others have a cache of their own, or none.
RECURRENT = {"bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "lfm2", "mamba", "mamba2"}
RECURRENT |= {"qwen3_5_text", "qwen3_next", "recurrent_gemma"}
OTHERS = {"gemma3n_text", "gemma4_text", "minimax", "openai-gpt"}
# Biases by distance, and windows that are too short for the requests below.
NO_TREES = {"bloom", "mpt", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt_neo", "cohere2", "exaone4"}
NO_TREES |= {"gpt_oss", "llama4_text", "ministral", "olmo3", "starcoder2", "vaultgemma", "gemma3 with images"}
NO_TREES |= {"longrope of some blocks", "dynamic of some blocks"}
# Answers of one and of several tokens behind prompts of lengths that fit in one pass, and others; one crosses the limit
# of the rotary embeddings with its longest answer only.
LENGTHS = {20: (1, 3, 5, 2), 21: (2, 2), 19: (1, 4, 4), 9: (1, 3, 5, 2), 30: (3, 1, 2), 12: (7, 1, 6)}


def some_requests() -> list[tuple[Ids, Ids]]:
    ids = iter(token_ids(1, 1000)[0].tolist())
    take = lambda count: tuple(next(ids) for _ in range(count))  # noqa: E731
    return [
        (prompt, take(count)) for length, counts in LENGTHS.items() for prompt in [take(length)] for count in counts
    ]


def inputs_of(requests: list[tuple[Ids, Ids]]) -> list[Ids]:
    return list(dict.fromkeys((*before, *scored)[:-1] for before, scored in requests))


SCORED = [name for name, exact in EVERY.items() if "scoring" in exact]


@pytest.mark.usefixtures("cheap_passes")
@pytest.mark.parametrize("family", SCORED)
def test_shared_prompts_change_no_number(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.core.evaluation.likelihoods.longest_tree", lambda _: 0)
    model, requests = network(family), some_requests()
    assert can_share_prompts(model) == (family not in RECURRENT | OTHERS)
    apart = score_tokens(model, requests, CONTEXT, 1)
    for max_tokens in (60, 200, 2000):
        passes = scoring_passes(inputs_of(requests), max_tokens, length_limits(model.config))
        # With dynamic scaling, every length above the limit is computed in its own way.
        assert any(each.start for each in passes) != family.startswith("dynamic")
        assert_same(score_tokens(model, requests, CONTEXT, max_tokens), apart)


@pytest.mark.usefixtures("cheap_passes")
@pytest.mark.parametrize("family", SCORED)
def test_trees_change_no_number(family: str) -> None:
    model, requests = network(family), some_requests()
    if not can_share_prompts(model):
        return
    limits, longest = length_limits(model.config), longest_tree(model)
    # Biases by distance, and windows of four tokens.
    assert (longest < 10) == (family in NO_TREES)
    for max_tokens in (60, 200, 2000):
        passes = scoring_passes(inputs_of(requests), max_tokens, limits, longest_tree=longest)
        assert any(each.trees for each in passes) != (family in NO_TREES)
        assert_same(score_tokens(model, requests, CONTEXT, max_tokens), score_tokens(model, requests, CONTEXT, 1))


@pytest.mark.usefixtures("cheap_passes")
def test_trees_as_long_as_a_window_change_no_number() -> None:
    """Of three kinds: one mask for all blocks, one for each kind of block, and blocks that count tokens themselves."""
    for family, name in (("mistral", "sliding_window"), ("gemma3", "sliding_window"), ("gpt_neo", "window_size")):
        config = FAMILIES[family]()
        setattr(config, name, 29)
        model = AutoModelForCausalLM.from_config(config).eval()
        requests = some_requests()
        passes = scoring_passes(inputs_of(requests), 2000, NO_LIMITS, longest_tree=longest_tree(model))
        trees = [tree for each in passes for tree in each.trees]
        assert 24 <= max(tree_length([len(ids) for ids in inputs_of(requests)], tree) for tree in trees) <= 29
        assert any(each.start for each in passes)
        assert_same(score_tokens(model, requests, CONTEXT, 2000), score_tokens(model, requests, CONTEXT, 1))


def assert_same(found: list[tuple[float, bool]], expected: list[tuple[float, bool]]) -> None:
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_attention_that_takes_no_mask_takes_no_trees() -> None:
    model = tiny_model("llama")
    assert longest_tree(model) == LONGEST
    model.config._attn_implementation = "flash_attention_2"
    assert longest_tree(model) == 0


def test_a_tree_is_a_prompt_once_and_all_its_choices() -> None:
    inputs: list[Ids] = [(7, 8, 1, 2), (5, 5, 5), (7, 8, 3), (7, 8)]
    batch = tree_batch(inputs, [Group((0, 2, 3), 2), Group((1,), 3)], torch.float32)
    assert batch.ids.tolist() == [[7, 8, 1, 2, 3], [5, 5, 5, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 2], [0, 1, 2, 0, 0]]
    assert batch.begins == {0: (0, 2), 2: (0, 4), 3: (0, 5), 1: (1, 3)}
    seen = (batch.mask[0, 0] == 0).int().tolist()
    assert seen == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]


@pytest.mark.usefixtures("cheap_passes")
def test_trees_pad_to_the_longest_tree_within_the_bound() -> None:
    inputs: list[Ids] = [(*(row,) * 30, answer, 9) for row in range(5) for answer in range(50, 54)]
    passes = scoring_passes(inputs, 3 * 38, NO_LIMITS, longest_tree=100)
    assert sorted(len(each.trees) for each in passes) == [2, 3]
    long = scoring_passes(inputs, 4 * 32, NO_LIMITS, longest_tree=33)
    assert [(each.start, each.trees) for each in long] == [(30, ())] * 5


def test_trees_on_two_sides_of_a_limit_are_in_two_passes() -> None:
    inputs: list[Ids] = [(*(row,) * length, answer) for row, length in enumerate((20, 40)) for answer in (8, 9)]
    passes = scoring_passes(inputs, 10_000, LengthLimits(frozenset((30,))), longest_tree=100)
    assert [len(each.trees) for each in passes] == [1, 1]


@pytest.mark.usefixtures("cheap_passes")
@pytest.mark.parametrize("share", ["all", "frozen_only"])
def test_repeated_blocks_keep_keys_and_values_of_their_own(share: str) -> None:
    emulator = with_layout(tiny_model("gemma3"), fixed_plan(NUM_BLOCKS, (0, 2, 5), (0, 5), share=share))
    apart, shared = (score_tokens(emulator, some_requests(), CONTEXT, size) for size in (1, 2000))
    assert [value for value, _ in shared] == pytest.approx([value for value, _ in apart], abs=1e-4)


@pytest.mark.usefixtures("cheap_passes")
def test_in_bfloat16_the_numbers_differ_by_rounding() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    apart, shared = (score_tokens(model, some_requests(), CONTEXT, size) for size in (1, 2000))
    assert [value for value, _ in shared] == pytest.approx([value for value, _ in apart], rel=0.05)


@pytest.mark.usefixtures("cheap_passes")
def test_a_prompt_runs_once_for_its_choices() -> None:
    prompt = tuple(range(20))
    inputs = [(*prompt, 90), (*prompt, 91, 92), prompt, (7,) * 30]
    shared, alone = scoring_passes(inputs, 1000, NO_LIMITS)
    assert (set(shared.members), shared.start, shared.beginnings(inputs)) == ({0, 1, 2}, 20, [prompt])
    assert (alone.members, alone.start, alone.beginnings(inputs)) == ((3,), 0, [])


def test_prompts_of_nearly_one_length_share_a_pass_and_others_do_not() -> None:
    lengths = ((1, 1000), (2, 970), (3, 500))
    inputs = [(*(first,) * length, answer) for first, length in lengths for answer in (8, 9, 10)]
    long, short = scoring_passes(inputs, 10_000, NO_LIMITS)
    assert (set(long.members), long.start) == (set(range(6)), 970)
    assert long.beginnings(inputs) == [(1,) * 970, (2,) * 970]
    assert (set(short.members), short.start) == ({6, 7, 8}, 500)


def test_short_prompts_share_a_pass_though_a_part_of_each_runs_with_every_choice() -> None:
    inputs = [(*(length,) * length, answer) for length in range(200, 210) for answer in (80, 81, 82)]
    (only,) = scoring_passes(inputs, 10_000, NO_LIMITS)
    assert (only.start, len(only.beginnings(inputs))) == (200, 10)


def cost(passes: list[ScoringPass], inputs: list[Ids]) -> float:
    """Tokens of all passes, padded, with what each of their parts costs beside."""
    total = 0
    for each in passes:
        begins = len(each.beginnings(inputs)) if each.start else 0
        following = max(len(inputs[member]) for member in each.members) - each.start
        total += (1 + bool(begins)) * PASS_COST + each.start * begins + len(each.members) * following
    return total


@given(st.lists(st.tuples(st.integers(20, 900), st.integers(1, 60)), min_size=1, max_size=7))
def test_no_other_cut_of_the_sorted_groups_costs_less(sizes: list[tuple[int, int]]) -> None:
    sizes = sorted(sizes, reverse=True)
    groups = [Group(tuple(range(3 * place, 3 * place + 3)), prompt) for place, (prompt, _) in enumerate(sizes)]
    inputs: list[Ids] = [
        (*(place,) * prompt, *(7,) * answer) for place, (prompt, answer) in enumerate(sizes) for _ in range(3)
    ]
    given_lengths = [len(ids) for ids in inputs]
    found = shared_passes(given_lengths, groups, 10_000, NO_LIMITS)
    shared = {member for each in found for member in each.members}
    alone = [index for index in range(len(inputs)) if index not in shared]
    found += _plain_passes(given_lengths, alone, 10_000, NO_LIMITS)
    assert sorted(member for each in found for member in each.members) == list(range(len(inputs)))
    every = []
    for cuts in itertools.product((False, True), repeat=len(groups) - 1):
        places = [0, *(place for place, cut in enumerate(cuts, start=1) if cut), len(groups)]
        parts = [groups[begin:end] for begin, end in itertools.pairwise(places)]
        if all(len(part) == 1 or padded(part, given_lengths) <= 10_000 for part in parts):
            every.append(cost([whole_pass(part) for part in parts], inputs))
    assert cost(found, inputs) <= min(every)


def test_choices_that_are_longer_than_their_prompts_run_whole_where_that_costs_less() -> None:
    inputs = [(*(row,) * 18, *(90 + choice,) * 40) for row in range(20) for choice in range(2)]
    (only,) = scoring_passes(inputs, 10_000, NO_LIMITS)
    assert (only.start, len(only.members)) == (0, 40)


def padded(groups: list[Group], lengths: list[int]) -> int:
    members = [member for group in groups for member in group.members]
    return len(members) * max(lengths[member] for member in members)


def whole_pass(groups: list[Group]) -> ScoringPass:
    members = tuple(member for group in groups for member in group.members)
    begins = tuple(row for row, group in enumerate(groups) for _ in group.members)
    return ScoringPass(members, min(group.shared for group in groups), begins)


def test_choices_are_grouped_by_row_though_all_rows_begin_alike() -> None:
    inputs = [(*(5,) * 100, *(row,) * 2000, answer) for row in range(3) for answer in (8, 9)]
    (only,) = scoring_passes(inputs, 100_000, NO_LIMITS)
    assert (only.start, len(only.beginnings(inputs))) == (2100, 3)


def test_examples_before_every_question_run_once_for_all() -> None:
    inputs = [(*(5,) * 600, row, 6, 7) for row in range(9)]
    (only,) = scoring_passes(inputs, 10_000, NO_LIMITS)
    assert (only.start, only.beginnings(inputs)) == (600, [(5,) * 600])


def test_a_short_beginning_is_not_worth_a_pass() -> None:
    assert [pays(saved, 100) for saved in (MIN_SAVED - 1, MIN_SAVED)] == [False, True]
    assert [pays(MIN_SAVED, total) for total in (8 * MIN_SAVED, 8 * MIN_SAVED + 1)] == [True, False]


@pytest.mark.usefixtures("cheap_passes")
@pytest.mark.parametrize("family", ROTARY)
def test_a_beginning_and_what_follows_are_on_one_side_of_a_limit(family: str) -> None:
    inputs, limits = inputs_of(some_requests()), length_limits(network(family).config)
    for each in scoring_passes(inputs, 2000, limits):
        lengths = {len(inputs[member]) for member in each.members} | ({each.start} - {0})
        assert len({limits.group(length) for length in lengths}) == 1


def test_inputs_that_only_begin_alike_are_cut_by_length_as_without_sharing() -> None:
    lengths = random.Random(0).choices(range(4, 80), k=60)
    inputs = [(1, row + 2, *(7,) * length) for row, length in enumerate(lengths)]
    assert scoring_passes(inputs, 500, NO_LIMITS) == scoring_passes(inputs, 500, NO_LIMITS, share=False)


def test_groups_with_long_and_short_answers_do_not_share_a_pass() -> None:
    long = [(*(1,) * 2000, *(answer,) * 500) for answer in (8, 9)]
    short = [(*(2,) * 2000, answer) for answer in range(20, 40)]
    assert sorted(len(each.members) for each in scoring_passes(long + short, 100_000, NO_LIMITS)) == [2, 20]


rows = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40).map(tuple), min_size=1, max_size=40, unique=True)


@pytest.mark.usefixtures("cheap_passes")
@given(
    rows,
    st.integers(1, 200),
    st.builds(LengthLimits, st.frozensets(st.integers(1, 40), max_size=2)),
    st.sampled_from([0, 30, 1000]),
)
def test_every_input_runs_once_within_the_bounds(
    inputs: list[Ids], max_tokens: int, limits: LengthLimits, longest: int
) -> None:
    passes = scoring_passes(inputs, max_tokens, limits, longest_tree=longest)
    lengths = [len(ids) for ids in inputs]
    for trees in (each.trees for each in passes if each.trees):
        assert len(trees) * max(tree_length(lengths, tree) for tree in trees) <= max_tokens or len(trees) == 1
        for tree in trees:
            assert tree_length(lengths, tree) <= longest
            assert len({inputs[member][: tree.shared] for member in tree.members}) == 1
    assert sorted(member for each in passes for member in each.members) == list(range(len(inputs)))
    for each in passes:
        if each.trees:
            continue
        longest = max(len(inputs[member]) for member in each.members)
        assert len(each.members) == 1 or longest * len(each.members) <= max_tokens
        if each.start:
            beginnings = each.beginnings(inputs)
            for member, row in zip(each.members, each.begins, strict=True):
                assert inputs[member][: each.start] == beginnings[row]
            assert len(beginnings) < len(each.members)


def test_long_inputs_share_as_many_as_fit() -> None:
    inputs = [(*(1,) * 50, answer) for answer in range(8)]
    assert sorted(len(each.members) for each in scoring_passes(inputs, 51 * 4, NO_LIMITS)) == [4, 4]
    assert [each.start for each in scoring_passes(inputs, 60, NO_LIMITS)] == [0] * 8
