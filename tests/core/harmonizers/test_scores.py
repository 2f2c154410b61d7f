"""Choices of blocks and their scores: by hand, and by what they are drawn for."""

import math

import pytest
import torch

from tasks.core.errors import SettingError
from tasks.core.harmonizers.scores import draw_choice, harmonized_blocks, make_groups, updated_scores
from tasks.core.harmonizers.settings import Harmonizing, num_harmonized
from tasks.core.plan.layout import fixed_plan


def drawn(scores: torch.Tensor, groups: list[list[int]], count: int, seed: int = 0) -> torch.Tensor:
    """[count, N]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([draw_choice(scores, groups, generator) for _ in range(count)])


def test_groups_are_neighbours_and_none_is_small() -> None:
    assert make_groups(range(8), 4) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert make_groups([1, 2, 3, 5, 6, 7, 9, 10, 11, 12], 4) == [[1, 2, 3, 5, 6], [7, 9, 10, 11, 12]]
    assert make_groups([2, 4, 5], 4) == [[2, 4, 5]], "fewer than one group"
    for count in range(4, 40):
        groups = make_groups(range(count), 4)
        assert [block for group in groups for block in group] == list(range(count))
        assert all(4 <= len(group) <= 7 for group in groups)


def test_every_choice_keeps_one_half_of_every_group() -> None:
    groups = [[1, 2, 3, 4], [5, 6, 7, 8, 9]]
    kept = drawn(torch.zeros(11, dtype=torch.float64), groups, 200)
    assert kept[:, [0, 10]].all(), "blocks outside the groups"
    assert (kept[:, 1:5].sum(1) == 2).all()
    assert (kept[:, 5:10].sum(1) == 3).all(), "of an odd group the larger half"
    often = kept[:, 1:5].double().mean(0)
    assert (often - 0.5).abs().max() < 0.15, "with equal scores every block as often"
    assert torch.equal(kept, drawn(torch.zeros(11, dtype=torch.float64), groups, 200))
    assert not torch.equal(kept, drawn(torch.zeros(11, dtype=torch.float64), groups, 200, seed=1))


def test_of_two_blocks_the_better_one_is_kept_with_the_probability_of_logistic_noise() -> None:
    """P(a + e > b + f) = (x - 1 - ln x) x / (x - 1)^2 with x = exp(a - b), for logistic e and f."""
    for difference in (-2.0, 1.0, 3.0):
        odds = math.exp(difference)
        expected = odds * (odds - 1 - difference) / (odds - 1) ** 2
        kept = drawn(torch.tensor([difference, 0.0], dtype=torch.float64), [[0, 1]], 4000)
        assert float(kept[:, 0].double().mean()) == pytest.approx(expected, abs=0.03)
        assert 0 < kept[:, 1].sum() < 4000, "every block is kept now and then"


def test_scores_by_hand() -> None:
    scores = torch.tensor([0.0, math.log(3.0), 0.0, 0.0], dtype=torch.float64)
    choices = torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0]]).bool()
    losses = torch.tensor([math.log(2.0), math.log(4.0), math.log(4.0)], dtype=torch.float64)
    # exp(-L) = 1/2, 1/4, 1/4; rewards 1/6, -1/12, -1/12; p = 1/2 and 3/4.
    found = updated_scores(scores, choices, losses, rate=12.0)
    expected = [12 / 6 / 4, math.log(3.0) - 12 / 6 * 3 / 16, 0.0, 0.0]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_a_block_that_helps_ends_above_the_others() -> None:
    """With losses that fall by what the kept blocks are worth, scores come to the order of these."""
    worths = torch.tensor([0.1, 0.8, 0.3, 0.5, 0.2, 0.9, 0.4, 0.0], dtype=torch.float64)
    groups, scores = make_groups(range(8), 4), torch.zeros(8, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(600):
        choices = torch.stack([draw_choice(scores, groups, generator) for _ in range(3)])
        scores = updated_scores(scores, choices, 3.0 - choices.double() @ worths, rate=0.5)
    for group in groups:
        assert scores[group].argsort().tolist() == worths[group].argsort().tolist()


def test_the_removed_blocks_with_the_highest_scores_are_harmonized() -> None:
    plan = fixed_plan(6, (0, 5), (0, 5))
    scores = [9.0, 0.1, 0.3, -0.2, 0.3, 9.0]
    assert harmonized_blocks(plan, scores, 1.0) == [1, 2, 3, 4]
    assert harmonized_blocks(plan, scores, 0.5) == [2, 4]
    assert harmonized_blocks(plan, scores, 0.3) == [2], "of equal ones the lower"
    assert harmonized_blocks(plan, scores, 0.01) == [2], "at least one"
    assert harmonized_blocks(fixed_plan(2, (0, 1), (0,)), [0.0, 0.0], 1.0) == []
    assert [num_harmonized(10, share) for share in (0.29, 0.3, 1.0)] == [2, 3, 10]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank = 0; it must be larger than 0"),
        ({"group_size": 1}, "group_size = 1; it must be at least 2"),
        ({"share": 0.0}, "share = 0.0; it must be larger than 0 and at most 1"),
        ({"warmup_steps": 9, "num_steps": 9}, "warmup_steps = 9 but num_steps = 9: .* take fewer"),
        ({"warmup_steps": 1, "num_steps": 8}, "score_steps = 10 but num_steps = 8: the scores would never be updated"),
    ],
)
def test_impossible_settings(changes: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Harmonizing(**changes)


def test_what_decides_the_result() -> None:
    view = Harmonizing().cache_view()
    assert Harmonizing(share=0.5, checkpoint_steps=3).cache_view() == view
    assert Harmonizing(rank=8).cache_view() != view
    assert Harmonizing(seed=1).cache_view() != view
    training = Harmonizing(num_steps=7, warmup_steps=2, batch_size=3, seed=4, score_steps=5).training
    assert (training.num_steps, training.warmup_steps, training.batch_size, training.seed) == (7, 2, 3, 4)
    assert training.eval_steps is None
