"""Cross: how alike are the states of two networks on the same rows?"""

import json
from pathlib import Path

from tasks.core.errors import InputError
from tasks.store.artifacts import Ref
from tasks.store.manifests import MANIFEST
from tasks.store.stage import stage
from tasks.store.work import Work

# Arguments of a capture that say which rows were run.
ROWS = ("task", "split", "num_rows", "part")


@stage(packages=("torch", "safetensors"))
def cross(work: Work, first: Ref, second: Ref) -> dict:
    """CKA between all states of two captures: model against model, or full model against emulator or plug-in.

    Writes `cross.safetensors`: `linear_cka`, `debiased_cka`, `rbf_cka`, each [N1+1, N2+1] float32 with state 0 the
    embeddings. Widths and depths may differ. In the summary, by the debiased estimator and without the embeddings:
    `mean_best_match`, the mean over the first's blocks of the most alike block of the second, and where both are
    equally deep `mean_same_depth`. Errors: InputError where the captures are not of the same rows.
    """
    from safetensors.torch import load_file, save_file

    from tasks.core.cross_cka import cross_cka

    folders = [work.open(ref) for ref in (first, second)]
    _require_same_rows(*folders)
    left, right = (load_file(folder / "states.safetensors")["states"] for folder in folders)
    names = [_names(len(left), "first"), _names(len(right), "second")]
    kinds = {"linear_cka": ("linear", False), "debiased_cka": ("linear", True), "rbf_cka": ("rbf", False)}
    matrices = {
        name: cross_cka(left, right, kernel, debiased, *names).contiguous()
        for name, (kernel, debiased) in kinds.items()
    }
    save_file(matrices, work.out / "cross.safetensors")
    blocks = matrices["debiased_cka"][1:, 1:]
    facts = {
        "num_blocks": blocks.shape[0],
        "num_other_blocks": blocks.shape[1],
        "num_rows": left.shape[1],
        "mean_best_match": float(blocks.max(dim=1).values.mean()),
    }
    if blocks.shape[0] == blocks.shape[1]:
        facts["mean_same_depth"] = float(blocks.diagonal().mean())
    return facts


def _names(num_states: int, which: str) -> list[str]:
    states = ["the embeddings", *(f"block {index}" for index in range(num_states - 1))]
    return [f"{state} of the {which} model" for state in states]


def _require_same_rows(first: Path, second: Path) -> None:
    """InputError where the arguments of the two captures name other rows."""
    left, right = (json.loads((folder / MANIFEST).read_text())["inputs"]["arguments"] for folder in (first, second))
    if different := [name for name in ROWS if name in left and name in right and left[name] != right[name]]:
        raise InputError(
            f"the two captures are of different rows (another {', '.join(different)}): CKA compares two networks on"
            " the same rows, so capture both with the same task, split, part and number of rows"
        )
