"""Datasets: distances between captures of one model on several data sets, whose rows are no pairs."""

import pytest
import torch
from scipy.spatial.distance import cdist

from tasks.core.errors import InputError
from tasks.store.artifacts import Ref
from tasks.study.dataset_distances import dataset_distances
from tests.tasks.chain import WIDTH, Chain
from tests.tasks.states import published_states, random_states

NAMES = ("questions", "prompts", "few")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("datasets"))


def captures(chain: Chain) -> list[Ref]:
    """Different texts, and different numbers of them."""
    return [chain.capture(), chain.capture(part="prompt"), chain.capture(split="validation", num_rows=6)]


def test_what_is_published(chain: Chain) -> None:
    ref = dataset_distances.run(chain.runtime, states=captures(chain), names=NAMES)
    found = chain.tensors(ref, "datasets")
    clouds = [chain.tensors(one, "states")["states"][-1].double().numpy() for one in captures(chain)]
    means = [[cdist(first, second).mean() for second in clouds] for first in clouds]
    centre = sum(cloud.mean(0) for cloud in clouds) / 3
    scale = (sum(((cloud - centre) ** 2).sum(1).mean() for cloud in clouds) / 3) ** 0.5
    for row in range(3):
        for column in range(3):
            expected = max(0.0, 2 * means[row][column] - means[row][row] - means[column][column]) / scale
            assert found["energy"][row, column].item() ** 2 == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(torch.cdist(found["map"], found["map"]), found["energy"], atol=1e-4, rtol=1e-4)
    assert found["rows"].shape == (12 + 12 + 6, 2)
    assert found["row_dataset"].tolist() == [0] * 12 + [1] * 12 + [2] * 6
    facts = {"distance": "energy", "names": list(NAMES), "num_rows": [12, 12, 6], "width": WIDTH}
    assert {name: ref.summary[name] for name in facts} == facts
    assert 0 < ref.summary["rows_share"] <= 1


@pytest.mark.parametrize("distance", ["mmd", "frechet"])
def test_the_map_is_of_the_distance_that_was_asked_for(chain: Chain, distance: str) -> None:
    ref = dataset_distances.run(chain.runtime, states=captures(chain), names=NAMES, distance=distance)
    found = chain.tensors(ref, "datasets")
    torch.testing.assert_close(torch.cdist(found["map"], found["map"]), found[distance], atol=1e-4, rtol=1e-4)


def test_refusals(chain: Chain) -> None:
    two = captures(chain)[:2]
    with pytest.raises(InputError, match="distance = 'cosine'; choose from energy, mmd, frechet"):
        dataset_distances.run(chain.runtime, states=two, names=NAMES[:2], distance="cosine")
    with pytest.raises(InputError, match="2 captures with 3 names"):
        dataset_distances.run(chain.runtime, states=two, names=NAMES)
    with pytest.raises(InputError, match="few: 1 rows are too few"):
        dataset_distances.run(chain.runtime, states=[two[0], chain.capture(num_rows=1)], names=("questions", "few"))
    wide = published_states(chain.store, random_states(width=WIDTH + 1))
    with pytest.raises(InputError, match=f"the states of wide have width {WIDTH + 1}, those of questions {WIDTH}"):
        dataset_distances.run(chain.runtime, states=[two[0], wide], names=("questions", "wide"))
    broken = random_states(width=WIDTH)
    broken[-1, 3, 3] = torch.nan
    states = [two[0], published_states(chain.store, broken)]
    with pytest.raises(InputError, match="the states of broken hold NaN"):
        dataset_distances.run(chain.runtime, states=states, names=("a", "broken"))
    same = published_states(chain.store, torch.ones(3, 9, WIDTH))
    with pytest.raises(InputError, match="the same for every row of every data set"):
        dataset_distances.run(chain.runtime, states=[same, same], names=("a", "b"))
