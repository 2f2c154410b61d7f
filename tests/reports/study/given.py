"""Cells of a study with known numbers, written as the stages write them."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tasks.reports.study.cells import Analysis, CellResults

NUM_ROWS = 7


def analysis(folder: Path, name: str, tensors: dict[str, Any], **summary: Any) -> Analysis:
    """One that wrote `<name>.safetensors`."""
    folder.mkdir(parents=True)
    save_file({key: np.array(values) for key, values in tensors.items()}, folder / f"{name}.safetensors")
    return Analysis(folder, {"num_rows": NUM_ROWS, **summary})


def studied(label: str, model: str = "opt", task: str = "people", **analyses: Analysis) -> CellResults:
    """A cell; of an analysis with a label the name has two underscores before it."""
    named = {name.replace("__", " · "): each for name, each in analyses.items()}
    return CellResults(label, model, task, {"weights": model, "support_split": "train"}, named)


def ramp(*shape: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """From low to high, no two values alike, and not symmetric, so that a turned picture is seen."""
    return np.linspace(low, high, int(np.prod(shape))).reshape(shape)


def structure(
    folder: Path, num_modules: int = 2, shift: float = 0.0, sizes: tuple[int, ...] = (4, NUM_ROWS)
) -> Analysis:
    """Of five blocks, the first two in one run and the others in another one."""
    tensors = {
        "similarity": ramp(5, 5),
        "module": [0, 0, 1, 1, 1],
        "gains": ramp(5),
        "together": ramp(5, 5),
        "adjacent": [0.9 - shift, 0.4 - shift, 0.8 - shift, 0.7 - shift],
        "adjacent_deviation": [0.01, 0.02, 0.03, 0.04],
        "boundaries": [0.1, 0.95, 0.2, 0.0],
        "scores": ramp(20),
        "counts": [2] * 20,
        "num_samples": list(sizes),
        "adjacent_by_size": ramp(len(sizes), 4) - shift,
        "adjacent_deviation_by_size": ramp(len(sizes), 4),
        "score_by_size": np.linspace(0.2, 0.5, len(sizes)) - shift,
        "agreement_by_size": np.linspace(0.6, 1.0, len(sizes)),
    }
    facts = {"modularity": 0.5 - shift, "modularity_deviation": 0.05, "modularity_by_chance": 0.1, "p_value": 0.012}
    facts |= {"num_modules": num_modules, "num_runs": 2, "stability": 0.93, "same_number": 0.75, "num_blocks": 5}
    return analysis(folder, "structure", tensors, **facts, estimator="debiased_cka", num_bootstraps=20)
