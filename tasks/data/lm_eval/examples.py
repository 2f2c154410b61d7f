"""Examples in front of a scored row (few-shot prompts), chosen as lm-eval's command chooses them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.data.lm_eval.definitions import takes_validation
from tasks.data.rows.reading import Row
from tasks.data.rows.tables import make_table
from tasks.data.sources import Split, TaskSource

if TYPE_CHECKING:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

# The name of the split of examples in the task that is built for lm-eval.
EXAMPLES = "examples"
# The default of lm_eval.simple_evaluate.
SEED = 1234


@dataclass(frozen=True)
class FewShot:
    """Examples in front of each row: how many, and the rows of a split."""

    count: int
    rows: Callable[[Split], Sequence[Row]]


def example_keys(
    source: TaskSource, config: dict[str, Any], few_shot: FewShot
) -> tuple[dict[str, Any], "Dataset | None"]:
    """Return the keys of a definition that choose examples, and the rows to choose from; None if it brings its own.

    config: the definition. The rows are those that validate where the definition takes its examples from there, and
    those that are trained on else: never rows that are scored, also where the definition would take them.

    Raises:
        InputError: when the task's documents take no examples.
    """
    if config.get("output_type") == "loglikelihood_rolling":
        raise InputError(
            f"evaluate.num_fewshot: task {source.name!r} scores documents as a whole, which have no examples in front;"
            " take 0, or another task"
        )
    own = dict(config.get("fewshot_config") or {})
    given = own.pop("split", None) or config.get("fewshot_split")
    if given is None and own.get("samples") is not None:
        return {"fewshot_config": own}, None
    own.pop("samples", None)
    process = own.pop("process_docs", None) or config.get("process_docs")
    split: Split = "validation" if takes_validation(config) and source.scored != "validation" else "train"
    rows = make_table(Path(source.file(split)), list(few_shot.rows(split)))
    return {"fewshot_config": own or None, "fewshot_split": EXAMPLES}, process(rows) if process else rows


def choose_examples(task: "ConfigurableTask", source: TaskSource, few_shot: FewShot) -> None:
    """Let the task draw its examples, for each row anew, from lm-eval's own seed.

    Raises:
        InputError: when there are not as many as are asked for.
    """
    available = len(task.sampler.df)
    if available < few_shot.count:
        raise InputError(
            f"evaluate.num_fewshot = {few_shot.count}, but task {source.name!r} has {available} rows to take examples"
            f" from; take at most {available}"
        )
    task.set_fewshot_seed(SEED)
