"""Landscape: end points are direct evaluations exactly, metrics are lm-eval's, errors name the point."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.core.errors import EnvironmentFault, InputError
from tasks.core.study.landscape import Measured
from tasks.core.tuning.method import TuningMethod
from tasks.data.task_measure import TaskMeasure
from tasks.engine.work import Work
from tasks.evaluate import evaluate
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.points import load_tuned_model
from tasks.models.resolving import resolve_model
from tasks.plug_in import plug_in
from tasks.store.artifacts import Ref
from tasks.study.landscape import landscape
from tasks.tune import tune
from tasks.validate import validate
from tests.tasks.chain import NUM_BLOCKS, Chain, people, write_model

FINE: dict[str, Any] = {"resolution_line": 3, "resolution_plane": 3, "extent": (-1.0, 1.0)}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("landscape"))


@pytest.fixture(scope="module")
def points(chain: Chain) -> dict[str, Ref | None]:
    """The model itself, its emulator's blocks plugged in, and all blocks tuned."""
    plugged = plug_in.run(chain.runtime, model=chain.model, plan=chain.plan, tuned=chain.tune(learning_rate=1e-2))
    tuning = chain.tuning(learning_rate=1e-2) | {"emulator": None, "plan": chain.every}
    return {"initial": None, "crash": plugged, "full": tune.run(chain.runtime, **tuning, model=chain.model)}


def run(chain: Chain, points: dict[str, Ref | None], **changes: Any) -> Ref:
    arguments = {"model": chain.model, "task": chain.task, "order": list(points)} | FINE | changes
    return landscape.run(chain.runtime, points=points, **arguments)


def computed(chain: Chain, folder: Path, points: dict[str, Ref | None], **changes: Any) -> tuple[Any, Any]:
    """The stage in this process, whose number of threads decides how sums are rounded: (tensors, facts)."""
    work = Work(folder, folder, chain.store)
    arguments = {"task": chain.task, "points": points, "order": list(points)} | FINE | changes
    landscape.compute(work, chain.model, **arguments)
    return load_file(folder / "landscape.safetensors"), json.loads((folder / "landscape.json").read_text())


def read(chain: Chain, ref: Ref) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return chain.tensors(ref, "landscape"), json.loads((chain.open(ref) / "landscape.json").read_text())


@pytest.mark.parametrize("split", ["validation", "scored"])
def test_end_points_equal_direct_evaluations_exactly(
    chain: Chain, points: dict[str, Ref | None], split: str, tmp_path: Path
) -> None:
    tensors, facts = computed(chain, tmp_path, points, split=split)
    network, tokenizer = load_model(chain.model), load_tokenizer(chain.model)
    measure = TaskMeasure(
        network, tokenizer, chain.task, split, num_rows=None, max_length=chain.model.context, max_tokens=8192
    )
    direct = {
        name: measure(network if ref is None else load_tuned_model(network, chain.open(ref), name)[0])
        for name, ref in points.items()
    }
    assert len({each.loss for each in direct.values()}) == 3
    for row, line in enumerate(facts["lines"]):
        for place, end in [(0, "begin"), (2, "end")]:
            assert float(tensors["line_loss"][row, place]) == direct[line[end]].loss == line[f"{end}_loss"]
            assert float(tensors["line_metric"][row, place]) == direct[line[end]].metric
    for name, (row, column) in {"initial": (1, 1), "crash": (1, 2), "full": (2, 1)}.items():
        assert float(tensors["plane_loss"][row, column]) == direct[name].loss
        assert float(tensors["plane_metric"][row, column]) == direct[name].metric
    assert tensors["plane_points"].tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert [(line["begin"], line["end"]) for line in facts["lines"]] == [
        ("initial", "crash"),
        ("initial", "full"),
        ("crash", "full"),
    ]
    assert facts["plane"]["changed_blocks"] == list(range(NUM_BLOCKS))


def test_loss_and_metric_are_those_of_validate_and_evaluate(chain: Chain, points: dict[str, Ref | None]) -> None:
    ref = run(chain, points, split="scored")
    tensors, facts = read(chain, ref)
    assert (facts["metric"], facts["higher_is_better"]) == ("acc", True)
    line = facts["lines"][1]
    assert ref.summary["barrier_initial_full"] == line["height"] >= 0
    for name, fact in [("stderr_of_barrier", "stderr"), ("place_of_barrier", "place"), ("metric_drop", "metric_drop")]:
        assert ref.summary[f"{name}_initial_full"] == line[fact]
    assert ref.summary["split"] == facts["split"] == "scored"
    for row, name in [(0, "crash"), (1, "full")]:
        scores = evaluate.run(chain.runtime, model=chain.model, task=chain.task, tuned=points[name])
        assert scores.summary["metric"] == "acc"
        assert float(tensors["line_metric"][row, 2]) == scores.summary["value"]
    tensors, _ = read(chain, run(chain, points))
    for row, name in [(0, "crash"), (1, "full")]:
        loss = validate.run(chain.runtime, model=chain.model, task=chain.task, tuned=points[name]).summary["loss"]
        assert float(tensors["line_loss"][row, 2]) == pytest.approx(loss, rel=1e-6)


def test_another_origin_and_filter_normalised_axes(chain: Chain, points: dict[str, Ref | None], tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    raw, facts = computed(chain, folders[0], points, order=["crash", "initial", "full"])
    known, _ = computed(chain, folders[1], points)
    assert facts["plane"]["origin"] == "crash"
    assert float(raw["plane_loss"][1, 1]) == float(known["line_loss"][0, 2])
    assert float(raw["plane_loss"][1, 2]) == float(known["line_loss"][0, 0])
    normal, facts = computed(chain, folders[2], points, axes="filter", resolution_line=2)
    assert float(normal["plane_loss"][1, 1]) == float(known["line_loss"][0, 0])
    # A tuning moves weights by less than their own length.
    places = normal["plane_points"]
    assert 0 < float(places[1, 0]) < 1
    assert 0 < float(places[2, 1]) < 1
    assert ((places[:, 2] >= 0) & (places[:, 2] < 1)).all()
    assert facts["plane"]["x_length"] > 0


def test_two_points_have_no_plane(chain: Chain, points: dict[str, Ref | None]) -> None:
    ref = run(chain, {"initial": None, "crash": points["crash"]})
    tensors, facts = read(chain, ref)
    assert tensors.keys() == {"line_places", "line_loss", "line_metric"}
    assert "plane" not in facts
    assert facts["lines"][0]["changed_blocks"] == sorted(chain.read_plan(chain.plan).tuned)


def test_bad_points(chain: Chain, points: dict[str, Ref | None]) -> None:
    crash = points["crash"]
    assert crash is not None
    with pytest.raises(InputError, match="at least two points"):
        run(chain, {"initial": None})
    with pytest.raises(InputError, match="points 'initial' and 'again' are the same model"):
        run(chain, {"initial": None, "crash": crash, "again": None})
    with pytest.raises(InputError, match="points 'crash' and 'again' are the same model"):
        run(chain, {"initial": None, "crash": crash, "again": crash})
    with pytest.raises(EnvironmentFault, match=r"plug_in 0000.* is no longer in"):
        run(chain, {"initial": None, "gone": crash.model_copy(update={"key": "0" * 64})})
    with pytest.raises(InputError, match="the validation split gives 1 row"):
        run(chain, points, task=people(num_validation=1))
    adapter = tune.run(
        chain.runtime, **chain.tuning(learning_rate=1e-2), variant=TuningMethod("adapter", adapter_size=4)
    )
    with pytest.raises(InputError, match=r"point 'small' is another kind of model.*adapters have none"):
        run(chain, {"initial": None, "small": adapter})


def test_models_of_other_sizes(chain: Chain, points: dict[str, Ref | None], tmp_path: Path) -> None:
    _, wide = write_model(tmp_path / "wide", hidden_size=64, word_embed_proj_dim=64)
    with pytest.raises(InputError, match=r"point 'crash' does not fit the initial model: .*expected shape"):
        run(chain, points, model=wide)
    _, deep = write_model(tmp_path / "deep", num_hidden_layers=7)
    with pytest.raises(InputError, match="point 'crash' is a tuning of a model with 6 blocks, the initial model has 7"):
        run(chain, points, model=deep)


def test_weights_that_are_not_finite(chain: Chain, points: dict[str, Ref | None]) -> None:
    with torch.no_grad():
        chain.full.model.decoder.embed_tokens.weight[5:, 0] = float("nan")
    broken = chain.saved("broken")
    assert resolve_model(broken.path).num_blocks == NUM_BLOCKS
    with pytest.raises(InputError, match="the loss at point 'initial' is not finite"):
        run(chain, points, model=broken)


def test_a_loss_that_is_not_finite_on_the_way_names_both_ends(
    chain: Chain, points: dict[str, Ref | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([2.0, float("inf"), 2.0])
    monkeypatch.setattr(TaskMeasure, "__call__", lambda *_: Measured(next(losses), 0.0))
    with pytest.raises(InputError, match=r"not finite at t = 0\.5 of the path from point 'initial' to 'crash'"):
        computed(chain, tmp_path, {name: points[name] for name in ("initial", "crash")})
