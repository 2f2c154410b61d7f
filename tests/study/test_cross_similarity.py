"""Cross: a model against itself and against another one, on the same rows and on no others."""

from pathlib import Path

import pytest
import torch

from tasks.core.cka import linear_cka
from tasks.core.errors import InputError
from tasks.store.artifacts import Ref
from tasks.study.cross_similarity import cross
from tests.tasks.chain import NUM_BLOCKS, NUM_ROWS, Chain, write_model
from tests.tasks.states import published_states, random_states

MATRICES = ("linear_cka", "debiased_cka", "rbf_cka")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("cross"))


@pytest.fixture(scope="module")
def other(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Ref:
    """Of a model that is wider and less deep."""
    folder: Path = tmp_path_factory.mktemp("other")
    sizes = {"hidden_size": 48, "word_embed_proj_dim": 48, "num_hidden_layers": 4}
    return chain.capture(model=write_model(folder, **sizes)[1])


@pytest.mark.parametrize("name", MATRICES)
def test_a_model_against_itself_is_its_similarity(chain: Chain, name: str) -> None:
    ref = cross.run(chain.runtime, first=chain.capture(), second=chain.capture())
    found, own = chain.tensors(ref, "cross")[name], chain.tensors(chain.similar, "similarity")[name]
    torch.testing.assert_close(found, own, atol=1e-5, rtol=0)
    assert ref.summary["unlike_same_depth"] == pytest.approx(0.0, abs=1e-6)
    assert ref.summary["unlike_best_match"] == pytest.approx(0.0, abs=1e-6)


def test_another_model_may_have_another_width_and_depth(chain: Chain, other: Ref) -> None:
    ref = cross.run(chain.runtime, first=chain.capture(), second=other)
    found = chain.tensors(ref, "cross")
    assert {name: tuple(matrix.shape) for name, matrix in found.items()} == dict.fromkeys(MATRICES, (NUM_BLOCKS + 1, 5))
    first, second = (chain.tensors(one, "states")["states"][2].double() for one in (chain.capture(), other))
    first, second = first - first.mean(0), second - second.mean(0)
    expected = (first.T @ second).norm() ** 2 / ((first.T @ first).norm() * (second.T @ second).norm())
    assert found["linear_cka"][2, 2].item() == pytest.approx(expected.item(), abs=1e-5)
    best = 1 - found["debiased_cka"][1:, 1:].double().max(dim=1).values.mean().item()
    facts = {"num_blocks": NUM_BLOCKS, "num_other_blocks": 4, "num_rows": NUM_ROWS}
    assert ref.summary == facts | {"unlike_best_match": pytest.approx(best)}


def test_a_small_difference_is_not_lost_in_the_digits_of_one(chain: Chain) -> None:
    states = random_states()
    moved = states + 1e-2 * torch.randn(states.shape, generator=torch.Generator().manual_seed(9))
    first, second = (published_states(chain.store, each) for each in (states, moved))
    found = cross.run(chain.runtime, first=first, second=second).summary["unlike_same_depth"]
    assert f"{1 - found:.3g}" == "1"
    pairs = torch.stack([states, moved], dim=1)[1:].double()
    expected = [1 - linear_cka(pair, debiased=True)[0, 1].item() for pair in pairs]
    assert found == pytest.approx(sum(expected) / len(expected), abs=1e-6)
    assert found > 1e-5


@pytest.mark.parametrize("change", [{"split": "validation", "num_rows": 6}, {"part": "prompt"}, {"num_rows": 11}])
def test_other_rows_are_refused_by_what_makes_them_so(chain: Chain, change: dict) -> None:
    count = chain.num_artifacts("cross")
    with pytest.raises(InputError, match=f"different rows .another .*{next(iter(change))}"):
        cross.run(chain.runtime, first=chain.capture(), second=chain.capture(**change))
    assert chain.num_artifacts("cross") == count


def test_degenerate_states_are_refused_with_the_model_they_are_of(chain: Chain) -> None:
    good, broken, constant = random_states(), random_states(seed=1), random_states(seed=2)
    broken[4, 1, 1], constant[0] = torch.inf, 1.0
    first = published_states(chain.store, good)
    with pytest.raises(InputError, match="block 3 of the second model holds NaN or infinite values"):
        cross.run(chain.runtime, first=first, second=published_states(chain.store, broken))
    with pytest.raises(InputError, match="the embeddings of the first model is the same for every row"):
        cross.run(chain.runtime, first=published_states(chain.store, constant), second=first)
    with pytest.raises(InputError, match="20 rows against 19"):
        cross.run(chain.runtime, first=first, second=published_states(chain.store, good[:, :19]))
    one = published_states(chain.store, good[:, :1])
    with pytest.raises(InputError, match="1 rows are too few"):
        cross.run(chain.runtime, first=one, second=one)
