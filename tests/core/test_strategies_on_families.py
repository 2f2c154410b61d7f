"""Every strategy on every family: its plan runs, tunes, plugs in, generates, and is saved as anybody's model."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tasks.core.batching import Example
from tasks.core.blocks.surgery import aliased, get_blocks, plug_in, tuned_parameters, tuned_state, with_layout
from tasks.core.capturing import capture_states
from tasks.core.cka import angular_distance, linear_cka
from tasks.core.clustering import adjacent_clusters, similar_clusters
from tasks.core.harmonizers.settings import Harmonizing
from tasks.core.harmonizers.training import TrainedHarmonizers
from tasks.core.plan.layout import Plan
from tasks.core.plan.registry import STRATEGIES, make_plan
from tasks.core.plan.spans import runs_up_to
from tasks.core.stand_ins.fitting import measure_stand_ins
from tasks.core.study.states_of_variants import drop_blocks, states_alone
from tasks.core.tuning.train import train
from tasks.models.emulators.emulator import write_emulator
from tasks.models.families.known import NO_STAND_INS
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, VOCABULARY, load_plain, tiny_model, token_ids

NUM_KEPT, NUM_TUNED = 4, 2


@dataclass(frozen=True)
class Case:
    """A family's model, its folder, and what strategies look at."""

    model: PreTrainedModel
    folder: Path
    evidence: dict[str, Any]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`cases(family)`: made once, shared by all strategies."""

    @cache
    def make(family: str) -> Case:
        model = tiny_model(family)
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        return Case(model, folder, evidence(model))

    return make


def evidence(model: PreTrainedModel) -> dict[str, Any]:
    """Measured on six random rows, as the stages measure it on a support set."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, VOCABULARY, (5 + row,), generator=generator).tolist() for row in range(6)]
    examples = [Example(tuple(row[:-1]), tuple(row[-1:])) for row in rows]
    states, alone = capture_states(model, examples), states_alone(model, examples, device="cpu")
    return {
        "num_blocks": NUM_BLOCKS,
        "clusters": adjacent_clusters(linear_cka(states.pooled[1:]), NUM_KEPT),
        "single_clusters": similar_clusters(linear_cka(alone.pooled[1:]), NUM_KEPT),
        "block_influence": states.block_influence,
        "angular_distance": angular_distance(states.last),
        "dropped": drop_blocks(model, examples, NUM_KEPT, estimator="linear_cka", device="cpu"),
        "stand_in_errors": stand_in_errors(model, examples),
        "block_scores": block_scores(model, examples),
    }


def block_scores(model: PreTrainedModel, examples: list[Example]) -> torch.Tensor:
    """[N], of two steps, each with an update of the scores."""
    how = Harmonizing(num_steps=2, warmup_steps=0, batch_size=6, rank=3, score_steps=1)
    trained = TrainedHarmonizers(aliased(model), how, rows=examples)
    train(trained, examples, [], how.training, after_step=trained.after_step)
    return trained.scores


def stand_in_errors(model: PreTrainedModel, examples: list[Example]) -> torch.Tensor:
    """[N, N]; all alike for a family in which no map can be folded in."""
    errors = torch.full((NUM_BLOCKS, NUM_BLOCKS), torch.inf)
    runs = runs_up_to(NUM_BLOCKS, NUM_BLOCKS - NUM_KEPT)
    if model.config.model_type in NO_STAND_INS:
        return errors.index_put_(tuple(torch.tensor(runs).T), torch.tensor(1.0))
    for each in measure_stand_ins(model, examples, runs):
        errors[each.run] = each.effect
    return errors


def plan_of(name: str, case: Case) -> Plan:
    """With the strategy's own placement and sharing."""
    strategy = STRATEGIES[name]
    options = {"num_blocks": NUM_BLOCKS, "num_kept": NUM_KEPT, "num_tuned": NUM_TUNED, "deviation": 0.4, "seed": 3}
    options |= {"kept": (0, 2, 3, 5), "tuned": (2, 5)} if name == "fixed" else {}
    return make_plan(name, case.evidence[strategy.needs], options | {"share": strategy.share})


def tune_two_steps(emulator: PreTrainedModel, plan: Plan) -> None:
    optimizer = torch.optim.AdamW(tuned_parameters(emulator, plan), lr=1e-2)
    ids = token_ids()
    for _ in range(2):
        optimizer.zero_grad()
        emulator(ids, labels=ids).loss.backward()
        optimizer.step()


def generated(model: PreTrainedModel) -> torch.Tensor:
    ids = token_ids()
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, min_new_tokens=3, do_sample=False)


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(token_ids(), use_cache=False).logits


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_from_plan_to_plug_in(cases: Any, family: str, name: str, tmp_path: Path) -> None:
    case = cases(family)
    plan = plan_of(name, case)
    assert (plan.num_blocks, len(plan.kept), len(plan.tuned)) == (NUM_BLOCKS, NUM_KEPT, NUM_TUNED)
    emulator = with_layout(case.model, plan)
    assert len(get_blocks(emulator)) == len(plan.layout)
    before = logits(emulator)
    assert before.isfinite().all()

    tune_two_steps(emulator, plan)
    assert not torch.equal(logits(emulator), before)
    plugged = plug_in(case.model, tuned_state(emulator, plan), plan)
    assert not torch.equal(logits(plugged), logits(case.model))
    for index, block in enumerate(get_blocks(plugged)):
        original = get_blocks(case.model)[index].state_dict()
        changed = any(not torch.equal(value, original[key]) for key, value in block.state_dict().items())
        assert changed == (index in plan.tuned), index
    assert generated(emulator).shape == generated(plugged).shape == (2, 15)

    write_emulator(case.folder, plan, tmp_path / "emulator")
    short = with_layout(case.model, make_plan("fixed", NUM_BLOCKS, {"kept": plan.kept, "tuned": plan.tuned}))
    assert torch.equal(logits(load_plain(tmp_path / "emulator")), logits(short))
    plugged.save_pretrained(tmp_path / "plugged")
    assert torch.equal(logits(load_plain(tmp_path / "plugged")), logits(plugged))
