"""Cross: compare the states of two networks on the same rows."""

import json
from pathlib import Path

from tasks.artifacts.states import read_states
from tasks.artifacts.study.cross_similarity import CrossSummary, write_cross
from tasks.core.errors import InputError
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref
from tasks.store.manifests import MANIFEST

# Arguments of a capture that determine which rows were run.
ROWS = ("task", "split", "num_rows", "part")

# Not those that change the states beforehand: in two networks, other channels are massive.
COMPARED = ("linear_cka", "debiased_cka", "rbf_cka")


@stage(packages=("torch", "safetensors"))
def cross(work: Work, first: Ref, second: Ref) -> CrossSummary:
    """Compute CKA between all states of two captures: of two models, or of the full model and an emulator or plug-in.

    Writes `tasks.artifacts.study.cross_similarity.CrossSimilarity`. Widths and depths may differ. The summary has, as
    1 - CKA by the debiased estimator and without the embeddings, `unlike_best_match`, the mean over the first network's
    blocks with each one's most similar block of the second, and for equal depths `unlike_same_depth`.

    Raises:
        InputError: when the captures are not of the same rows.
    """
    from tasks.core.cka import ESTIMATORS
    from tasks.core.cross_cka import cross_cka

    folders = [work.open(ref) for ref in (first, second)]
    _require_same_rows(*folders)
    left, right = (read_states(folder)["states"] for folder in folders)
    names = [_names(len(left), "first"), _names(len(right), "second")]
    compared = {name: ESTIMATORS[name] for name in COMPARED}
    matrices = {name: cross_cka(left, right, how.kernel, how.debiased, *names) for name, how in compared.items()}
    write_cross(work.out, matrices)
    # For a nearly unchanged network, CKA is 1 to the digits that a table shows, but 1 - CKA still tells a difference.
    unlike = 1.0 - matrices["debiased_cka"][1:, 1:].double()
    facts: CrossSummary = {
        "num_blocks": unlike.shape[0],
        "num_other_blocks": unlike.shape[1],
        "num_rows": left.shape[1],
        "unlike_best_match": float(unlike.min(dim=1).values.mean()),
    }
    if unlike.shape[0] == unlike.shape[1]:
        facts["unlike_same_depth"] = float(unlike.diagonal().mean())
    return facts


def _names(num_states: int, which: str) -> list[str]:
    states = ["the embeddings", *(f"block {index}" for index in range(num_states - 1))]
    return [f"{state} of the {which} model" for state in states]


def _require_same_rows(first: Path, second: Path) -> None:
    """Check that the arguments of the two captures name the same rows.

    Raises:
        InputError: when they do not.
    """
    left, right = (json.loads((folder / MANIFEST).read_text())["inputs"]["arguments"] for folder in (first, second))
    if different := [name for name in ROWS if name in left and name in right and left[name] != right[name]]:
        raise InputError(
            f"the two captures are of different rows (another {', '.join(different)}): CKA compares two networks on"
            " the same rows, so capture both with the same task, split, part and number of rows"
        )
