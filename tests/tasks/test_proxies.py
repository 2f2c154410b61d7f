"""Proxies: the stage measures the support set, and finds what it measured."""

import json

import pytest

from tasks.compress import compress
from tasks.core.blocks.surgery import with_layout
from tasks.core.compression.settings import Compression
from tasks.core.evaluation.proxies import measure_proxies
from tasks.data.tokenize import load_examples
from tasks.models.loading import load_model, load_tokenizer
from tasks.proxies import proxies
from tasks.store.artifacts import Ref
from tests.tasks.chain import NUM_ROWS, Chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("proxies"))


def measured(chain: Chain, plan: Ref, **changes: object) -> Ref:
    arguments = {"num_rows": 8, "split": "train", "max_tokens": 128, "precision": "float32"} | changes
    return proxies.run(chain.runtime, model=chain.model, task=chain.task, plan=plan, **arguments)


def test_the_stage_measures_the_first_rows_of_the_support_split(chain: Chain) -> None:
    ref, plan, full = measured(chain, chain.plan), chain.read_plan(chain.plan), load_model(chain.model)
    examples = load_examples(chain.task, "train", load_tokenizer(chain.model), chain.model.context)
    expected = measure_proxies(full, with_layout(full, plan), plan, examples.rows[:8], max_tokens=128)
    for name in ("gradient_cosine", "kl", "state_error"):
        assert ref.summary[name] == pytest.approx(getattr(expected, name), rel=1e-5)
    assert ref.summary["num_rows"] == 8 < NUM_ROWS
    written = json.loads((chain.open(ref) / "proxies.json").read_text())
    assert written["block_gradient_cosine"].keys() == {str(index) for index in plan.tuned}
    assert written["kl"] == ref.summary["kl"] > 0


def test_keeping_everything_is_exact(chain: Chain) -> None:
    summary = measured(chain, chain.every).summary
    assert (summary["gradient_cosine"], summary["kl"], summary["state_error"]) == (1.0, 0.0, 0.0)


def test_a_second_call_is_a_hit(chain: Chain) -> None:
    first, count = measured(chain, chain.plan), chain.num_computed
    assert measured(chain, chain.plan) == first
    assert chain.num_computed == count
    assert measured(chain, chain.plan, num_rows=4).key != first.key


def test_an_emulator_that_was_changed_is_measured_itself(chain: Chain) -> None:
    plain = chain.emulate(chain.plan)
    pruned = compress.run(chain.runtime, emulator=plain, how=Compression("prune", ratio=0.9))
    by_plan, itself, changed = (
        measured(chain, chain.plan, **more).summary for more in ({}, {"emulator": plain}, {"emulator": pruned})
    )
    assert itself == pytest.approx(by_plan, rel=1e-5)
    assert changed["kl"] > 1.1 * by_plan["kl"]
    assert changed["gradient_cosine"] < by_plan["gradient_cosine"]
