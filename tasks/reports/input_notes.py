"""Notes on model and splits for readers of scores, as sentences and as a table, from the facts of the check."""

from collections.abc import Mapping
from typing import Any

from tasks.reports.table import Table

UNQUANTISED = {"F64", "F32", "F16", "BF16"}
HEADER = ["", "rows", "taken from", "left out, as scored", "left out, as validating", "digest"]


def input_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return sentences about scores that are not those of the published model or benchmark, and about rows left out."""
    notes = []
    if types := facts.get("gguf_types"):
        counts = ", ".join(f"{name}: {count}" for name, count in types.items())
        lossy = not types.keys() <= UNQUANTISED
        notes.append(
            f"The model was restored from GGUF files (tensors by type: {counts})"
            + ("; the scores are those of the model after quantisation." if lossy else ".")
        )
    if facts.get("scored_from") == "train":
        notes.append(
            "One file is scored and trained on. Its rows were parted:"
            f" {facts['num_scored_rows']} are scored, {facts['num_validation_rows']} validate,"
            f" {facts['num_train_rows']} are trained on; the scores are not those of the whole benchmark."
        )
    if count := facts.get("num_train_scored_duplicates"):
        notes.append(f"Rows of train left out because a scored row says the same: {count}.")
    if count := facts.get("num_train_validation_duplicates"):
        notes.append(f"Rows of train left out because a validation row says the same: {count}.")
    if count := facts.get("num_validation_scored_duplicates"):
        notes.append(f"Rows of validation left out because a scored row says the same: {count}.")
    if count := facts.get("num_fewshot_truncated"):
        notes.append(
            f"Of {facts['num_fewshot_requests']} prompts with {facts['num_fewshot']} examples, {count} do not fit into"
            " the model's context and lose their beginning."
        )
    return notes


def split_table(facts: Mapping[str, Any]) -> Table:
    """Return a row for each split: number of rows, the file they are from, rows left out, digest of the wording."""
    rows = []
    for split in ("train", "validation", "scored"):
        counts = [facts.get(f"num_{split}_{other}_duplicates") for other in ("scored", "validation")]
        taken_from = facts.get(f"{split}_from", split)
        rows.append([split, facts[f"num_{split}_rows"], taken_from, *counts, facts.get(f"{split}_digest")])
    return Table(HEADER, rows)
