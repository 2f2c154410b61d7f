"""Fill: copies of kept blocks make the model that sharing makes, and are trained while known blocks stay."""

from pathlib import Path

import pytest
import torch

from flows.demo.texts import write_texts
from tasks.core.blocks.surgery import with_layout
from tasks.core.errors import InputError
from tasks.core.plan.layout import fixed_plan
from tasks.core.tuning.settings import TrainSettings
from tasks.data.resolving_text import resolve_text
from tasks.distill import distill
from tasks.models.emulators.emulator import load_emulator
from tasks.parties.fill import fill
from tasks.store.artifacts import Ref
from tests.tasks.chain import NUM_BLOCKS, Chain, logits, plain

KNOWN, TUNED = (1, 2, 5), (1, 5)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("fill"))


def emulator(chain: Chain, known: tuple[int, ...] = KNOWN, share: str | None = None) -> Ref:
    plan = chain.cluster(strategy="fixed", num_blocks=NUM_BLOCKS, kept=known, tuned=TUNED, share=share)
    return chain.emulate(plan)


def filled(chain: Chain) -> Ref:
    return fill.run(chain.runtime, emulator=emulator(chain))


def test_the_nearest_kept_block_is_the_plan_with_sharing(chain: Chain) -> None:
    folder = chain.open(filled(chain))
    shared = load_emulator(chain.open(emulator(chain, share="all")))
    expected = with_layout(chain.full, fixed_plan(NUM_BLOCKS, KNOWN, TUNED, "all"))
    assert torch.equal(logits(load_emulator(folder)), logits(shared))
    assert torch.equal(logits(load_emulator(folder)), logits(expected))
    # Anybody can load it, since each copy is stored.
    assert torch.equal(logits(plain(folder)), logits(expected))
    assert plain(folder).config.num_hidden_layers == NUM_BLOCKS


def test_its_plan_freezes_the_copies_alone(chain: Chain) -> None:
    plan = chain.read_plan(filled(chain))
    assert (plan.num_blocks, plan.kept, plan.tuned) == (NUM_BLOCKS, tuple(range(NUM_BLOCKS)), KNOWN)
    assert plan.frozen == (0, 3, 4)


@pytest.mark.parametrize("hidden_weight", [0.0, 30.0])
def test_training_changes_the_copies_alone(chain: Chain, tmp_path: Path, hidden_weight: float) -> None:
    write_texts(tmp_path / "text", seed=5, num_train=40, num_validation=4)
    start = filled(chain)
    trained = distill.run(
        chain.runtime,
        emulator=start,
        teacher=chain.model,
        text=resolve_text(str(tmp_path / "text")),
        settings=TrainSettings(learning_rate=1e-3, num_steps=2, batch_size=2, checkpoint_steps=2),
        block=32,
        hidden_weight=hidden_weight,
        precision="float32",
    )
    before, after = chain.tensors(start, "model"), chain.tensors(trained, "model")
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved
    assert {int(name.split(".")[3]) for name in moved} == {0, 3, 4}
    assert before.keys() == after.keys()


def test_an_emulator_of_all_blocks_hides_none(chain: Chain) -> None:
    whole = emulator(chain, tuple(range(NUM_BLOCKS)))
    with pytest.raises(InputError, match=f"the emulator has all {NUM_BLOCKS} blocks, so that none is hidden"):
        fill.run(chain.runtime, emulator=whole)
