"""Every kind of artifact reads what it wrote, and names what a folder without it lacks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.artifacts import (
    check_facts,
    clusters,
    dropped_blocks,
    harmonizers,
    plan,
    proxies,
    report,
    scores,
    search_table,
    similarity,
    stand_in_errors,
    stand_ins,
    states,
    sweep_table,
    tables,
    validation_loss,
)
from tasks.artifacts.files import TensorFile
from tasks.artifacts.study import (
    cross_similarity,
    dataset_distances,
    importance,
    landscape,
    lens,
    modules,
    prediction_distances,
    study_report,
    trajectory,
    weight_distances,
)
from tasks.core.errors import InputError
from tasks.core.evaluation.proxies import Proxies
from tasks.core.evaluation.scores import Scores
from tasks.core.plan.layout import uniform_plan

SIZES = {"N": 3, "C": 2, "r": 4, "M": 4, "n": 5, "d": 2, "L": 2, "m": 3, "P": 3, "R": 2, "B": 6, "D": 2, "K": 2}
VARIANT = {"sources": [0], "top": [["a"]], "probability": [[0.5]], "entropy": [[0.1]], "kl": [[0.0]]}
# (write, read, value) of files of JSON.
OBJECTS = {
    "plan": (plan.write_plan, plan.read_plan, uniform_plan(8, 4, 2)),
    "dropped": (dropped_blocks.write_dropped, dropped_blocks.read_dropped, [3, 1, 2]),
    "scores": (scores.write_scores, scores.read_scores, Scores("acc", 0.5, None, 2, True, {"acc": 0.5}, [1.0, 0.0])),
    "loss": (
        validation_loss.write_loss,
        validation_loss.read_loss,
        {"loss": 1.5, "stderr": None, "num_tokens": 3, "num_rows": 1, "validation_digest": "1:aa"},
    ),
    "proxies": (
        proxies.write_proxies,
        proxies.read_proxies,
        Proxies(0.9, 0.1, 0.2, {0: 0.9, 11: 0.8}, {0: 0.1, 11: 0.2}, 7, 3),
    ),
    "facts": (
        check_facts.write_facts,
        check_facts.read_facts,
        dict.fromkeys(check_facts.CheckFacts.__required_keys__, 1) | {"num_train_rows": 5},
    ),
    "report": (report.write_report, report.read_report, dict.fromkeys(report.Report.__required_keys__, 1)),
    "sweep": (
        sweep_table.write_sweep_table,
        sweep_table.read_sweep_table,
        dict.fromkeys(sweep_table.SweepTable.__required_keys__, 1),
    ),
    "search": (
        search_table.write_search_table,
        search_table.read_search_table,
        dict.fromkeys(search_table.SearchTable.__required_keys__, 1),
    ),
    "study": (
        study_report.write_study_report,
        study_report.read_study_report,
        dict.fromkeys(study_report.StudyReport.__required_keys__, 1),
    ),
    "trajectory": (
        trajectory.write_trajectories,
        trajectory.read_trajectories,
        {"lens": "logit", "split": "train", "rows": [{"row": 0, "tokens": ["a"], "variants": {"full": VARIANT}}]},
    ),
}
# (file, write, read) of files of tensors.
TENSORS = {
    "states": (states.STATES_FILE, states.write_states, states.read_states),
    "similarity": (similarity.SIMILARITY_FILE, similarity.write_similarity, similarity.read_similarity),
    "stand-in errors": (
        stand_in_errors.STAND_IN_ERRORS_FILE,
        stand_in_errors.write_stand_in_errors,
        stand_in_errors.read_stand_in_errors,
    ),
    "harmonizers": (
        harmonizers.NETWORKS_FILE,
        harmonizers.NETWORKS_FILE.write,
        lambda folder: harmonizers.NETWORKS_FILE.read(folder),
    ),
    "block scores": (
        harmonizers.SCORES_FILE,
        harmonizers.SCORES_FILE.write,
        lambda folder: harmonizers.SCORES_FILE.read(folder),
    ),
    "structure": (modules.STRUCTURE_FILE, modules.write_structure, modules.read_structure),
    "cross": (cross_similarity.CROSS_FILE, cross_similarity.write_cross, cross_similarity.read_cross),
    "distances": (
        prediction_distances.DISTANCES_FILE,
        prediction_distances.write_distances,
        prediction_distances.read_distances,
    ),
    "datasets": (
        dataset_distances.DATASETS_FILE,
        dataset_distances.write_dataset_distances,
        dataset_distances.read_dataset_distances,
    ),
    "importance": (importance.IMPORTANCE_FILE, importance.write_importance, importance.read_importance),
    "weights": (
        weight_distances.WEIGHTS_FILE,
        weight_distances.write_weight_distances,
        weight_distances.read_weight_distances,
    ),
    "curves": (lens.CURVES_FILE, lens.write_curves, lens.read_curves),
}


def made(file: TensorFile) -> dict[str, torch.Tensor]:
    """Tensors of the layouts of a file."""
    found = {}
    for number, (name, (dtype, sizes)) in enumerate(file.layouts.items()):
        shape = [eval(size, SIZES.copy()) for size in sizes]
        found[name] = torch.full(shape, number, dtype=getattr(torch, dtype))
    return found


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_is_read_as_it_was_written(kind: str, tmp_path: Path) -> None:
    write, read, value = OBJECTS[kind]
    with pytest.raises(InputError, match="it has no "):
        read(tmp_path)
    write(tmp_path, value)
    assert read(tmp_path) == value
    (path,) = tmp_path.iterdir()
    path.write_text("{}")
    with pytest.raises(InputError):
        read(tmp_path)


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_are_read_as_they_were_written(kind: str, tmp_path: Path) -> None:
    file, write, read = TENSORS[kind]
    with pytest.raises(InputError, match=f"it has no {file.name}"):
        read(tmp_path)
    tensors = made(file)
    write(tmp_path, tensors)
    found: Any = read(tmp_path)
    assert found.keys() == tensors.keys()
    assert all(found[name].tolist() == values.tolist() for name, values in tensors.items())
    # Tensors that may be absent are, in some runs.
    write(tmp_path, {name: tensors[name] for name in file.required})
    assert read(tmp_path).keys() == file.required


def test_a_landscape_is_read_with_its_facts(tmp_path: Path) -> None:
    tensors, facts = made(landscape.LANDSCAPE_FILE), dict.fromkeys(landscape.LandscapeFacts.__required_keys__, 1)
    landscape.write_landscape(tmp_path, tensors, facts)
    found, read = landscape.read_landscape(tmp_path)
    assert read == facts
    assert found["plane_loss"].tolist() == tensors["plane_loss"].tolist()


def test_stand_ins_are_read_by_the_block_in_front(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no runs of linear stand-ins: it has no stand_ins\.json"):
        stand_ins.read_stand_ins(tmp_path)
    errors = {"errors": [0.1, 0.2], "errors_without": [0.3, 0.4]}
    runs: stand_ins.Runs = {"fronts": [1, 5], "lasts": [3, 6], "paths": ["a", "b"], **errors}  # type: ignore[typeddict-item]
    matrices = torch.arange(8.0).view(2, 2, 2)
    stand_ins.write_stand_ins(tmp_path, runs, matrices)
    found = stand_ins.read_stand_ins(tmp_path)
    assert {front: each.path for front, each in found.items()} == {1: "a", 5: "b"}
    assert torch.equal(found[5].matrix, matrices[1])


@pytest.mark.parametrize("evidence", clusters.CLUSTER_FILES)
def test_clusters_are_beside_some_plans(evidence: str, tmp_path: Path) -> None:
    assert clusters.read_clusters(tmp_path, evidence) is None
    clusters.write_clusters(tmp_path, evidence, [[0, 1], [2]], "average")
    assert clusters.read_clusters(tmp_path, evidence) == {"clusters": [[0, 1], [2]], "linkage": "average"}


@pytest.mark.parametrize("read", [tables.read_table, study_report.read_study_table, report.read_outcomes])
def test_a_folder_without_them_is_named(read: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path} holds no "):
        read(tmp_path)


def test_an_emulator_without_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no emulator: it has no plan\.json"):
        plan.read_plan(tmp_path, "emulator")
