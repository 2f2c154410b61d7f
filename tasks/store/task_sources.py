"""A task as an input: what the model is tuned for and scored on, found, checked and identified by content."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from tasks.core.errors import InputError
from tasks.store import task_files
from tasks.store.boundary import translated
from tasks.store.digests import plain_digest
from tasks.store.home import default_home
from tasks.store.model_files import FileDigest, json_digest
from tasks.store.rows import ROW_FILES, find_splits
from tasks.store.templates import check_template

if TYPE_CHECKING:
    from tasks.store.artifacts import Store

Kind = Literal["lm_eval", "text", "instructions"]
Split = Literal["train", "validation", "scored"]

SUFFIXES: dict[str, tuple[str, ...]] = {
    "lm_eval": (".jsonl", ".json"),
    "text": (*ROW_FILES, ".txt"),
    "instructions": ROW_FILES,
}
# Where a definition says which rows are used, and few-shot examples from them; files and zero shots replace it.
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
# Where a definition names the split for each file.
SPLIT_KEYS = {"train": "training_split", "validation": "validation_split", "test": "test_split"}
# Names and notes, which change nothing.
NOTES = {"task", "task_alias", "tag", "group", "metadata"}
# The setting that limits each split.
LIMITS: dict[str, str] = {"train": "num_train", "validation": "num_validation", "scored": "num_test"}
# The modules that turn rows into prompts and answers.
WORDING = tuple(
    f"tasks.store.{name}"
    for name in (
        "examples",
        "harness",
        "instructions",
        "readings",
        "requests",
        "row_content",
        "row_readers",
        "row_tables",
        "rows",
        "seeding",
        "splits",
        "token_ids",
        "user_text",
        "wording",
    )
)
# Tokens of a window of a document where nothing is said: the context of OPT and LLaMA, and the length at which
# perplexities of models with longer contexts are published (lm-eval's max_length=2048).
DOCUMENT_WINDOW = 2048
FEATURES_FILE = "features.json"
# In task.data, what stands for the task's name.
NAME_PLACE = "{name}"


class TaskSource(BaseModel):
    """Rows of train, validation and test, and how they become prompts and answers.

    files: the file of each split; yaml: the lm-eval definition; digest: of all that decides prompts, answers and
    scores; num_*: use only the first rows of a split; max_length: tokens of an example, see `longest` and `window`.
    single_file: the user gave one file for all splits; is_scored: false for text that is only trained on and validates;
    worded: by split the digest that the check found (see `tasks.store.wording`).
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

    def __hash__(self) -> int:
        return hash(self.digest)

    def cache_view(self) -> dict[str, Any]:
        """What identifies the task in a key: content and limits, never where files lie."""
        kept = ("kind", "name", "digest", "template", "num_train", "num_validation", "num_test", "max_length")
        return {key: getattr(self, key) for key in kept}

    @property
    def scored(self) -> str:
        """The split that is scored: test, or validation where the task has no test labels (PIQA, HellaSwag)."""
        return "test" if "test" in self.files else "validation"

    @property
    def scored_from_train(self) -> bool:
        """Whether the scored rows are taken from the file that is trained on: its definition names one split twice."""
        return self.is_scored and self.files[self.scored] == self.files["train"]

    @property
    def validation_is_held_out(self) -> bool:
        """Whether validation rows are taken from train: where there are none, or they are those scored or trained on.

        Some tasks score their validation split (PIQA, HellaSwag), some name one split twice (MedMCQA, FLORES).
        """
        taken = {self.files["train"], *([self.files[self.scored]] if self.is_scored else [])}
        return self.files.get("validation", self.files["train"]) in taken

    def file(self, split: Split) -> str:
        """The file that a split's rows come from."""
        if split == "scored":
            return self.files[self.scored]
        return self.files["train" if self.validation_is_held_out else split]

    def limit(self, split: Split) -> int | None:
        """Number of rows to use of a split; None for all."""
        return getattr(self, LIMITS[split])

    def longest(self, context: int) -> int:
        """Tokens of a prompt and its answer at most, in a model that takes `context` tokens."""
        return min(context, self.max_length or context)

    def window(self, context: int) -> int:
        """Tokens of a window of a document at most, in a model that takes `context` tokens."""
        return min(context, self.max_length or DOCUMENT_WINDOW)


def resolve_task(settings: Mapping[str, Any], store: "Store | None" = None) -> TaskSource:
    """Find a task, check that it can be trained and scored, and identify it by content; reads no rows.

    settings: name; kind (lm_eval); data: folder with a file for each split, for text and instructions also one file,
    and without it an lm-eval task is taken from the hub, once (see `own_folder` for several tasks); template;
    num_train, num_validation, num_test; max_length.
    store: remembers digests of files and keeps what comes from the hub.
    InputError for anything that cannot be used, EnvironmentFault where the hub cannot be reached.
    """
    file_digest = store.digests if store else plain_digest
    limits: dict[str, Any] = {key: settings.get(key) for key in (*LIMITS.values(), "max_length")}
    name, kind, data = settings["name"], settings.get("kind", "lm_eval"), settings.get("data")
    data = own_folder(name, data, kind)
    template = settings.get("template", "default")
    if kind not in SUFFIXES:
        raise InputError(f"task.kind = {kind!r}: choose one of {', '.join(SUFFIXES)}")
    definition = None
    if kind == "lm_eval":
        definition = task_files.find_definition(name, Path(data).expanduser() if data else None)
        # A definition given by its path is known by the name that it gives itself: no path in an identity.
        name = str(task_files.merged(definition).get("task", name))
    check_template(kind, template, name)
    files = _files(name, kind, data, definition, home(store) / "data")
    _require_splits(name, files, data)
    single_file = data is not None and Path(data).expanduser().is_file()
    content: dict[str, Any] = {}
    with translated(f"task {name!r}: its files cannot be read"):
        content |= {split: file_digest(path) for split, path in files.items()}
        files = _without_copies(files, content)
        for path in {path.parent / FEATURES_FILE for path in files.values()}:
            if path.is_file():
                content["features"] = file_digest(path)
    view = {
        "rows": content,
        "single_file": single_file,
        "definition": _definition_view(definition, file_digest),
        "code": code_view(),
    }
    return TaskSource(
        kind=kind,
        name=name,
        data=data,
        files={split: str(path) for split, path in files.items()},
        yaml=str(definition) if definition else None,
        digest=json_digest(view),
        template=template,
        single_file=single_file,
        **limits,
    )


def own_folder(name: str, data: str | None, kind: str = "lm_eval") -> str | None:
    """task.data with the task's name in the place of `{name}`, so that a sweep over tasks names one place for all.

    None, which means the hub, where that folder is absent for an lm-eval task.
    """
    if data is None or NAME_PLACE not in data:
        return data
    folder = data.replace(NAME_PLACE, name)
    return None if kind == "lm_eval" and not Path(folder).expanduser().exists() else folder


def home(store: "Store | None") -> Path:
    """Where copies of inputs are kept: in the store, or where this project writes by default."""
    return store.root if store else default_home().absolute()


def code_view() -> str:
    """Digest of the code that turns rows into token ids: another code trains on other ids."""
    from tasks.store.keys import code_digest

    return code_digest("tasks.store.examples", WORDING)


def _files(name: str, kind: str, data: str | None, definition: Path | None, downloads: Path) -> dict[str, Path]:
    if data is None:
        if definition is None:
            raise InputError(f"task.data is missing: a task of kind {kind} needs a folder with train and test files")
        from tasks.store.hub_data import definition_files

        return definition_files(definition, downloads)
    path = Path(data).expanduser().resolve()
    if path.is_dir():
        return find_splits(path, SUFFIXES[kind])
    if not path.is_file():
        raise InputError(f"task.data = {data!r}: there is no such folder or file")
    if kind == "lm_eval" or path.suffix not in ROW_FILES:
        raise InputError(f"task.data = {data!r} is one file: give a folder with train{path.suffix}, test{path.suffix}")
    return dict.fromkeys(("train", "validation", "test"), path)


def _without_copies(files: dict[str, Path], digests: Mapping[str, str]) -> dict[str, Path]:
    """The files, with the first of equal ones in the place of its copies: equal content is one split."""
    first: dict[str, Path] = {}
    for split, path in files.items():
        first.setdefault(digests[split], path)
    return {split: first[digests[split]] for split in files}


def _require_splits(name: str, files: dict[str, Path], data: str | None) -> None:
    folder = f"the folder {data}" if data else "the data"
    if "train" not in files:
        raise InputError(
            f"task {name!r} has no training split: {folder} has only {', '.join(files)}."
            " Give task.data = a folder with train, and test or validation, files"
        )
    if len(files) == 1:
        raise InputError(f"task {name!r} has nothing to score: {folder} has a train file only; add a test file")


def _definition_view(definition: Path | None, file_digest: FileDigest) -> dict[str, Any] | None:
    """What of a definition decides prompts, answers and scores."""
    if definition is None:
        return None
    from tasks.store.keys import package_version

    config = {key: value for key, value in task_files.merged(definition).items() if key not in DATA_KEYS | NOTES}
    code = sorted((file.name, file_digest(file)) for file in task_files.code_files(definition))
    return {"config": _plain(config), "code": code, "lm_eval": package_version("lm_eval")}


def _plain(value: Any) -> Any:
    """The value with text keys only, as JSON needs them."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
