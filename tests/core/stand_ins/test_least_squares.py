"""Linear stand-ins: least squares by hand, the identity where nothing changes, and folding on every family."""

import pytest
import torch
from torch import Tensor, nn

from tasks.core.batching import Batch, collate
from tasks.core.blocks.locate_blocks import get_blocks
from tasks.core.errors import InputError
from tasks.core.stand_ins.least_squares import ALPHAS, Moments, best_stand_in, error, measure, solve
from tasks.core.stand_ins.residual_outputs import fold, residual_outputs
from tests.core.rows import rows
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, WIDTH, tiny_model, token_ids

# A norm stands between the last linear module and the residual stream.
NORMED = ("gemma2", "gemma3", "olmo2")
FOLDABLE = [family for family in FAMILIES if family not in NORMED]
RUNS = [(0, 2), (0, 3), (3, 4)]


def random_moments(seed: int = 0, tokens: int = 50, width: int = 8) -> tuple[Moments, Tensor, Tensor, Tensor]:
    """Moments of one run (1, 3), and what they were made of: M, h_1 and h_3."""
    generator = torch.Generator().manual_seed(seed)
    output, first, last = (torch.randn(tokens, width, generator=generator) for _ in range(3))
    last = last + output @ torch.randn(width, width, generator=generator)
    moments = Moments()
    # In two parts, as two batches would.
    for part in (slice(0, 20), slice(20, tokens)):
        moments.add({1: output[part]}, {1: first[part], 3: last[part]}, [(1, 3)])
    return moments, output, first, last


@pytest.mark.parametrize("alpha", ALPHAS)
def test_it_is_the_ridge_regression_of_the_change(alpha: float) -> None:
    moments, output, first, last = random_moments()
    ridge = alpha * output.square().sum() / output.shape[1]
    above = torch.cat([output, ridge.sqrt() * torch.eye(8)])
    below = torch.cat([last - first, torch.zeros(8, 8)])
    expected = torch.eye(8) + torch.linalg.lstsq(above.double(), below.double()).solution.float()
    found = solve(moments, (1, 3), alpha)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    direct = (first - output + output @ found - last).square().sum() / last.square().sum()
    assert error(moments, (1, 3), found) == pytest.approx(float(direct), rel=1e-4)


def test_no_stand_in_is_better_on_the_tokens_it_was_fitted_to() -> None:
    moments, *_ = random_moments()
    best = error(moments, (1, 3), solve(moments, (1, 3), 1e-6))
    assert best < error(moments, (1, 3), torch.eye(8))
    for seed in range(5):
        moved = solve(moments, (1, 3), 1e-6) + 0.01 * torch.randn(8, 8, generator=torch.Generator().manual_seed(seed))
        assert best <= error(moments, (1, 3), moved)


def test_the_penalty_is_chosen_on_other_tokens() -> None:
    fitted, held_out = random_moments(0, tokens=9)[0], random_moments(1, tokens=200)[0]
    alpha, matrix, found = best_stand_in(fitted, held_out, (1, 3))
    errors = [error(held_out, (1, 3), solve(fitted, (1, 3), alpha)) for alpha in ALPHAS]
    assert found == min(errors)
    assert alpha == ALPHAS[errors.index(found)]
    assert torch.equal(matrix, solve(fitted, (1, 3), alpha))
    assert errors.index(found) != errors.index(max(errors))


def test_where_the_run_changes_nothing_the_map_is_the_identity() -> None:
    moments, output = Moments(), torch.randn(20, 8)
    state = torch.randn(20, 8)
    moments.add({0: output}, {0: state, 1: state}, [(0, 1)])
    for alpha in ALPHAS:
        assert torch.equal(solve(moments, (0, 1), alpha), torch.eye(8))
    assert error(moments, (0, 1), torch.eye(8)) == 0


@pytest.mark.parametrize("family", FOLDABLE)
def test_a_folded_map_equals_the_map_as_a_module(family: str) -> None:
    model, matrix = tiny_model(family), torch.eye(WIDTH) + 0.2 * torch.randn(WIDTH, WIDTH)
    path = residual_outputs(model)[2]
    handle = get_blocks(model)[2].get_submodule(path).register_forward_hook(lambda _, args, output: output @ matrix)
    expected = model(token_ids()).logits
    handle.remove()
    plain = model(token_ids()).logits
    fold(get_blocks(model)[2], path, matrix)
    folded = model(token_ids()).logits
    torch.testing.assert_close(folded, expected, atol=1e-5, rtol=1e-5)
    assert (folded - plain).abs().max() > 1e-2


@pytest.mark.parametrize("family", NORMED)
def test_a_norm_behind_the_last_linear_module_is_refused_by_name(family: str) -> None:
    with pytest.raises(InputError, match=rf"{family}.*layers\.0.*no linear map can stand in"):
        residual_outputs(tiny_model(family))


def naive(model: nn.Module, batch: Batch) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """M and h [T, d] of all tokens, scaled as in `measure`."""
    outputs, states = dict[int, Tensor](), dict[int, Tensor]()
    paths, handles = residual_outputs(model), []
    for index, block in enumerate(get_blocks(model)):
        handles.append(
            block.get_submodule(paths[index]).register_forward_hook(
                lambda _, args, output, index=index: outputs.update({index: output})
            )
        )
        handles.append(
            block.register_forward_hook(
                lambda _, args, output, index=index: states.update(
                    {index: (output[0] if isinstance(output, tuple) else output).clone()}
                )
            )
        )
    with torch.no_grad():
        model(batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    for handle in handles:
        handle.remove()
    keep = batch.attention_mask.bool()
    chosen = sorted({block for run in RUNS for block in run})
    scale = torch.stack([states[block][keep].square().sum(1) for block in chosen]).mean(0).rsqrt()[:, None]
    tokens = {a: outputs[a].reshape(*keep.shape, -1)[keep] for a, _ in RUNS}
    return {a: each * scale for a, each in tokens.items()}, {block: states[block][keep] * scale for block in chosen}


@pytest.mark.parametrize("family", FOLDABLE)
def test_moments_are_sums_over_tokens(family: str) -> None:
    model = tiny_model(family)
    batches = [collate(rows()[:3], 0), collate(rows()[3:], 0)]
    found, expected = measure(model, residual_outputs(model), batches, RUNS), Moments()
    for batch in batches:
        expected.add(*naive(model, batch), RUNS)
    assert found.grams.keys() == {0, 3}
    for name in ("grams", "products", "changes", "norms"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(torch.as_tensor(ours[key]), torch.as_tensor(theirs[key]), atol=1e-4, rtol=1e-4)


def test_states_that_are_not_finite_are_refused() -> None:
    model = tiny_model("llama")
    paths = residual_outputs(model)
    get_blocks(model)[3].get_submodule(paths[3]).weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        measure(model, paths, [collate(rows(), 0)], RUNS)


def test_a_stand_in_brings_the_state_nearer() -> None:
    model = tiny_model("llama")
    batches = [collate(rows(), 0)]
    moments = measure(model, residual_outputs(model), batches, [(0, NUM_BLOCKS - 1)])
    run = (0, NUM_BLOCKS - 1)
    assert error(moments, run, solve(moments, run, 0.1)) < error(moments, run, torch.eye(WIDTH))
