"""The checked facts about model, task and data, `facts.json`: the artifact of `check`."""

from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from tasks.artifacts.files import HasSummary, JsonFile


class CheckFacts(TypedDict):
    """The content of the file, which is also the stage's summary; further facts are named for their split.

    For each split S of train, validation and scored: `num_S_rows`, `num_S_examples`, `num_S_truncated`, `longest_S`
    (tokens), `num_S_apart` and `S_digest`. context: tokens that the model takes; end_tokens: special tokens that the
    tokenizer appends and that are left out; window: tokens of a window of a document, for tasks with documents;
    scored_split: name of the scored split; scored_from, validation_from: splits that these rows are from; has_prompts:
    whether every row has a prompt; not_exact: operations that the family cannot do exactly, with reasons; gguf_types:
    of a model from GGUF files, their number of tensors of each type.
    """

    context: int
    num_blocks: int
    family: str
    end_tokens: str
    window: NotRequired[int]
    scored_split: str
    scored_from: str
    validation_from: str
    has_prompts: bool
    not_exact: NotRequired[dict[str, str]]
    gguf_types: NotRequired[dict[str, int]]


FACTS_FILE = JsonFile("facts.json", "facts of a check", CheckFacts, indent=2, sort_keys=True)


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Write the facts."""
    FACTS_FILE.write(folder, cast(CheckFacts, facts))


def read_facts(folder: Path) -> CheckFacts:
    """Read the facts.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return FACTS_FILE.read(folder)


def check_summary(result: HasSummary) -> CheckFacts:
    """Return the summary of a result of `check`."""
    return cast(CheckFacts, result.summary)
