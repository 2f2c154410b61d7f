"""The page of families: `python -m tests.store.support_matrix docs/reference/families.md` measures it and writes it.

Where the product's table (`tasks.models.families.known`) is another one than what is measured, the command says so and
exits with 1: correct the table, since the product refuses what it lists.
"""

import sys
import warnings
from pathlib import Path

from transformers import PreTrainedConfig

from tasks.models.families.known import EXACT, LIMITED, OPERATIONS, WORDS, failed_operations
from tasks.models.families.trial import try_config
from tests.core.more_families import SIZES, make_config
from tests.core.tiny_models import FAMILIES

# Families that cannot be built without packages for images; their language models are measured.
ALIASES = {"gemma3n": "gemma3n_text"}
# What is exact depends on the model's own config.
TRIED = ("gemma4_text",)

HEAD = """# Families of models

What of the method is exact in each family, measured with transformers on tiny random models of all its kinds of
blocks, in float32, against plain forward passes of the unchanged model (`tasks/core/families/laws.py` says how). What
is not exact is refused before anything is computed. A family that is not in this table is tried when it is first used:
a small random model of its config is built, which takes about a second, and what is not exact in it is refused as well.

This page is made by `python -m tests.store.support_matrix docs/reference/families.md`, and a test compares it with
what it measures.

| operation | what it means |
|---|---|
| capture | states of padded batches are those of each row alone |
| scoring | log-likelihoods of padded batches are those of each row alone |
| surgery | an emulator without some blocks is the model that steps over them, in memory and on disk |
| cache | such an emulator gives the same logits with a cache, in one pass and token by token |
| sharing | a block at two positions is two copies of it |
| stand_ins | a map folded into the last linear module of a block is the map behind this module, in memory and on disk |
| tuning | gradients reach the tuned blocks alone and do not depend on the batch; what is plugged in is what was tuned |
| lens | the final norm and the head make the model's logits of the last state |
| generation | greedy tokens of padded batches with a cache are those of each row alone without |
"""


def measured_configs() -> dict[str, PreTrainedConfig]:
    """A tiny config of each family, by its `model_type`."""
    configs = [make() for make in FAMILIES.values()] + [make_config(family) for family in SIZES]
    return {config.model_type: config for config in configs}


def measure(config: PreTrainedConfig) -> dict[str, str]:
    """Operations that are not exact, and what was found."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return try_config(config)


def page(failed_by_family: dict[str, dict[str, str]]) -> str:
    """The page, from the operations that are not exact in each family, and why."""
    lines = [HEAD, f"| family | {' | '.join(OPERATIONS)} |", f"|---|{'---|' * len(OPERATIONS)}"]
    families: dict[tuple[str, str], list[str]] = {}
    for family, failed in sorted(failed_by_family.items()):
        cells = " | ".join("no" if operation in failed else "yes" for operation in OPERATIONS)
        lines.append(f"| {family} | {cells} |")
        for reason in dict.fromkeys(failed.values()):
            words = ", ".join(WORDS[operation] for operation in failed if failed[operation] == reason)
            families.setdefault((reason, words), []).append(family)
    notes = [f"- **{', '.join(names)}**: {reason} (not exact: {words})." for (reason, words), names in families.items()]
    return "\n".join([*lines, "", "What is not exact, and why:", "", *notes, ""])


def known() -> dict[str, dict[str, str]]:
    """The product's table, with the families whose own config decides as their tiny model has it."""
    table = {family: dict(failed_operations(family) or {}) for family in EXACT | LIMITED.keys()}
    return table | {family: _told(measure(measured_configs()[family])) for family in TRIED}


def _told(failed: dict[str, str]) -> dict[str, str]:
    """Without the numbers and messages of one config."""
    return dict.fromkeys(failed, "tried with each model's own config; not exact where blocks share keys and values")


def main(path: Path) -> int:
    """Write the page; print what the product's table has wrong."""
    wrong = 0
    for family, config in measured_configs().items():
        failed, table = measure(config), failed_operations(family)
        if family not in TRIED and (table is None or set(table) != set(failed)):
            print(f"{family}: the table has {sorted(table or {})}, measured: {failed}")
            wrong += 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(known()))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
