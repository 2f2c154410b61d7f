"""What an emulator discloses: counted from the config, compared with the tensors of real models and folders."""

from pathlib import Path

import pytest

from tasks.core.blocks.surgery import with_layout
from tasks.core.costs.sizes import Sizes, model_sizes
from tasks.core.plan.layout import fixed_plan
from tasks.models.folder import load_config
from tasks.models.tensor_files import stored_tensors
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [None, "all"])
def test_the_share_is_that_of_the_emulators_own_tensors(family: str, share: str | None) -> None:
    model = tiny_model(family)
    sizes = model_sizes(model.config)
    assert sizes.total == sum({tensor.data_ptr(): tensor.numel() for tensor in model.parameters()}.values())
    plan = fixed_plan(NUM_BLOCKS, [0, 2, 5], [2], share=share)
    frozen = with_layout(model, fixed_plan(NUM_BLOCKS, [0, 2, 5], [2], share=share)).parameters()
    # The tuned block is a copy of its own, whose original is not in the emulator unless it is shared as well.
    tensors = {tensor.data_ptr(): tensor.numel() for tensor in frozen}
    copies = sum(source == 2 for source, _ in plan.layout) - 1
    own = sum(tensors.values()) - (sizes.blocks[2] if copies else 0)
    assert sizes.disclosed(plan.kept) == pytest.approx(own / sizes.total, abs=1e-12)


def test_the_demos_emulator_on_disk_has_as_many(tmp_path: Path) -> None:
    from flows.cli.parser import DEMO
    from tasks.models.emulators.emulator import write_emulator

    folder = DEMO.parent / "model"
    sizes = model_sizes(load_config(folder))
    plan = fixed_plan(12, [0, 3, 4, 9], [3])
    write_emulator(folder, plan, tmp_path)
    count = lambda where: sum(tensor.num_bytes for tensor in stored_tensors(where).values())  # noqa: E731
    assert sizes.disclosed(plan.kept) == pytest.approx(count(tmp_path) / count(folder), abs=1e-12)
    assert sizes.least(4) == sizes.disclosed(plan.kept)


def test_laws() -> None:
    sizes = Sizes((5, 2, 3), 10)
    assert sizes.total == 20
    assert sizes.disclosed([0, 1, 2]) == sizes.least(3) == 1.0
    assert sizes.least(1) == sizes.disclosed([1]) == 0.6
    assert sizes.least(2) == sizes.disclosed([1, 2]) == 0.75
