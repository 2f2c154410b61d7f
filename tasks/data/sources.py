"""A task as the input of a stage: the rows to tune and score on, and the identity of the task."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Kind = Literal["lm_eval", "text", "instructions"]
Split = Literal["train", "validation", "scored"]

# Keys by which a definition chooses rows and few-shot examples; the source's files and `evaluate.num_fewshot` replace
# them (see `lm_eval.examples`).
DATA_KEYS = {
    "dataset_path",
    "dataset_name",
    "dataset_kwargs",
    "custom_dataset",
    "training_split",
    "validation_split",
    "test_split",
    "fewshot_split",
    "fewshot_config",
    "num_fewshot",
}
# The key by which a definition names the split for each file.
SPLIT_KEYS = {"train": "training_split", "validation": "validation_split", "test": "test_split"}
# Names and notes, which affect no result.
NOTES = {"task", "task_alias", "tag", "group", "metadata"}
# The setting that limits each split.
LIMITS: dict[str, str] = {"train": "num_train", "validation": "num_validation", "scored": "num_test"}
# Default tokens of a window of a document: the context of OPT and LLaMA, and the length at which perplexities of
# models with longer contexts are published (lm-eval's max_length=2048).
DOCUMENT_WINDOW = 2048
FEATURES_FILE = "features.json"
# The placeholder for the task's name in task.data.
NAME_PLACE = "{name}"


class Chat(BaseModel):
    """A tokenizer's chat template (Jinja), and the special tokens that it may name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: str
    tokens: dict[str, str]


class TaskSource(BaseModel):
    """Rows of train, validation and test, and how they become prompts and answers.

    files: the file of each split; yaml: the lm-eval definition; digest: of all that decides prompts, answers and
    scores; num_*: use only the first rows of a split; max_length: tokens of an example, see `longest` and `window`.
    single_file: the user gave one file for all splits; is_scored: False for text that only trains and validates;
    worded: for each split, the digest that the check found (see `tasks.data.wording`). chat: the template of prompts
    that are turns of a chat.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    name: str
    data: str | None = None
    files: dict[str, str]
    yaml: str | None = None
    digest: str
    template: str = "default"
    num_train: int | None = None
    num_validation: int | None = None
    num_test: int | None = None
    max_length: int | None = None
    single_file: bool = False
    is_scored: bool = True
    worded: dict[str, str] = {}
    chat: Chat | None = None

    def __hash__(self) -> int:
        return hash(self.digest)

    def cache_view(self) -> dict[str, Any]:
        """The values that identify the task in a key: content and limits, never the location of files."""
        kept = ("kind", "name", "digest", "template", "num_train", "num_validation", "num_test", "max_length")
        view = {key: getattr(self, key) for key in kept}
        return view | ({"chat": self.chat.model_dump()} if self.chat else {})

    @property
    def scored(self) -> str:
        """The split that is scored: test, or validation where the task has no test labels (PIQA, HellaSwag)."""
        return "test" if "test" in self.files else "validation"

    @property
    def scored_from_train(self) -> bool:
        """Whether the scored rows come from the file that is trained on: the definition names one split for both."""
        return self.is_scored and self.files[self.scored] == self.files["train"]

    @property
    def validation_is_held_out(self) -> bool:
        """Whether validation rows are taken from train: there are none, or they are also the scored or training rows.

        Some tasks score their validation split (PIQA, HellaSwag), some name one split twice (MedMCQA, FLORES).
        """
        taken = {self.files["train"], *([self.files[self.scored]] if self.is_scored else [])}
        return self.files.get("validation", self.files["train"]) in taken

    def file(self, split: Split) -> str:
        """Return the file that a split's rows come from."""
        if split == "scored":
            return self.files[self.scored]
        return self.files["train" if self.validation_is_held_out else split]

    def limit(self, split: Split) -> int | None:
        """Return how many rows of a split to use; None for all."""
        return getattr(self, LIMITS[split])

    def longest(self, context: int) -> int:
        """Return the most tokens of a prompt and its answer, for a model that takes `context` tokens."""
        return min(context, self.max_length or context)

    def window(self, context: int) -> int:
        """Return the most tokens of a window of a document, for a model that takes `context` tokens."""
        return min(context, self.max_length or DOCUMENT_WINDOW)
