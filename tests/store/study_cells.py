"""Cells of a study for tests of its figures: analyses of states with known modules, through the real stages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tasks.engine.runtime import Runtime
from tasks.models.source import ModelSource
from tasks.reports.study.cells import Analysis, CellResults
from tasks.similarity import similarity
from tasks.store.artifacts import Ref, Store
from tasks.study.cross_similarity import cross
from tasks.study.dataset_distances import dataset_distances
from tasks.study.modules import structure
from tasks.study.weight_distances import weights
from tests.core.tiny_models import NUM_BLOCKS, tiny_model
from tests.tasks.states import published_states

MODULES = {"small": (4, 3, 5), "large": (6, 9, 5)}
ROWS = 48


def modular(
    lengths: Sequence[int], seed: int, num_rows: int = ROWS, width: int = 24, drift: float = 0.15
) -> torch.Tensor:
    """States [N+1, n, d] that drift slowly inside modules and jump between them; state 0 is the embeddings."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(num_rows, width, generator=generator)
    states = [state]
    for length in lengths:
        state = 0.6 * state + torch.randn(num_rows, width, generator=generator)
        for _ in range(length):
            state = state + drift * torch.randn(num_rows, width, generator=generator)
            states.append(state)
    return torch.stack(states)


class Cells:
    """Two models on two data sets, with everything that has a figure here."""

    def __init__(self, runtime: Runtime, folder: Path) -> None:
        self.runtime, self.folder, self.store = runtime, folder, Store(Path(runtime.store))

    def analysis(self, ref: Ref) -> Analysis:
        return Analysis(self.store.open(ref), ref.summary)

    def structure(self, states: Ref) -> Ref:
        options: dict[str, Any] = {"estimator": "debiased_cka", "num_bootstraps": 20, "num_samples": (8, 16, 32)}
        return structure.run(self.runtime, states=states, **options)

    def weights(self) -> Analysis:
        for name, seed in (("model", 0), ("other", 1)):
            tiny_model("llama", seed).save_pretrained(self.folder / name)
        sources = [
            ModelSource(
                path=str(self.folder / name),
                name=name,
                weights=name,
                tokenizer="",
                num_blocks=NUM_BLOCKS,
                family="llama",
                context=64,
            )
            for name in ("model", "other")
        ]
        return self.analysis(weights.run(self.runtime, model=sources[0], other=sources[1]))

    def without_modules(self) -> CellResults:
        """A cell of blocks that have nothing in common."""
        states = torch.randn(12, ROWS, 24, generator=torch.Generator().manual_seed(2))
        done = {"structure": self.analysis(self.structure(published_states(self.store, states)))}
        return CellResults("noise · questions", "noise", "questions", {"support_split": "train"}, done)

    def all(self) -> list[CellResults]:
        """Of each model one analysis of its data sets, shared by its cells."""
        found, moved = [], self.weights()
        for number, (model, lengths) in enumerate(MODULES.items()):
            captured = {
                task: published_states(self.store, place + modular(lengths, 10 * number + place))
                for place, task in enumerate(("questions", "weather"))
            }
            pooled = published_states(self.store, modular(lengths, 10 * number + 5, drift=0.3))
            clouds = dataset_distances.run(self.runtime, states=list(captured.values()), names=tuple(captured))
            for task, states in captured.items():
                analyses = {
                    "similarity": similarity.run(self.runtime, states=states, estimator="linear_cka"),
                    "structure": self.structure(states),
                    "structure · last": self.structure(pooled),
                    "cross · emulator": cross.run(self.runtime, first=states, second=pooled),
                    "dataset_distances": clouds,
                }
                done = {name: self.analysis(ref) for name, ref in analyses.items()} | {"weights": moved}
                facts = {"weights": f"digest of {model}", "support_split": "train"}
                found.append(CellResults(f"{model} · {task}", model, task, facts, done))
        return found
