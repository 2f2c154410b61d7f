"""Find a task, check it, and identify it by content. No code here affects what is computed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.data.hub import definition_files
from tasks.data.lm_eval import definitions
from tasks.data.pass_limits import has_documents
from tasks.data.rows.reading import ROW_FILES, find_splits
from tasks.data.sources import DATA_KEYS, FEATURES_FILE, LIMITS, NAME_PLACE, NOTES, Chat, TaskSource
from tasks.data.templates import CHAT, check_template
from tasks.models.folder_facts import FileDigest, json_digest
from tasks.store.boundary import translated
from tasks.store.digests import plain_digest
from tasks.store.home import copies_folder
from tasks.store.keys import package_version

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.store.artifacts import Store

SUFFIXES: dict[str, tuple[str, ...]] = {
    "lm_eval": (".jsonl", ".json"),
    "text": (*ROW_FILES, ".txt"),
    "instructions": ROW_FILES,
}


def resolve_task(settings: Mapping[str, Any], store: "Store | None" = None) -> TaskSource:
    """Find a task, check that it can be trained and scored, and identify it by content; reads no rows.

    settings: name; kind (lm_eval by default); data: a folder with a file for each split, or one file for text and
    instructions; without it an lm-eval task is downloaded from the hub, once (see `own_folder` for several tasks);
    template; num_train, num_validation, num_test; max_length.
    store: remembers digests of files and keeps downloads from the hub.

    Raises:
        InputError: when anything cannot be used.
        EnvironmentFault: when the hub cannot be reached.
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
        definition = definitions.find_definition(name, Path(data).expanduser() if data else None)
        # A definition given by its path is identified by the name inside it: no path in an identity.
        name = str(definitions.merged(definition).get("task", name))
    check_template(kind, template, name)
    files = _files(name, kind, data, definition, copies_folder(store) / "data")
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


def with_chat(task: TaskSource, load: "Callable[[], PreTrainedTokenizerBase]", model: str) -> TaskSource:
    """Return the task with the template of a model's tokenizer, if the task is to be worded as a chat.

    load: loads the tokenizer, called only where its template is wanted; model: its name, for messages.

    Raises:
        InputError: when the tokenizer has no template, or the task scores documents as a whole.
    """
    if task.template != CHAT:
        return task
    setting = f'task.template = "{CHAT}"'
    if has_documents(task):
        raise InputError(f"{setting}: task {task.name!r} scores documents as a whole, which are no turns of a chat")
    tokenizer = load()
    if not tokenizer.chat_template:
        raise InputError(
            f"{setting}: the tokenizer of {model} has no chat template; take a model that was tuned for chats, or"
            ' task.template = "default"'
        )
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise InputError(f"{setting}: of the templates of {model}'s tokenizer, none is the default: {error}") from error
    tokens = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return task.model_copy(update={"chat": Chat(template=template, tokens=tokens)})


def own_folder(name: str, data: str | None, kind: str = "lm_eval") -> str | None:
    """Return task.data with `{name}` replaced by the task's name, so that a sweep over tasks has one setting for all.

    Return None, which means the hub, where that folder is absent for an lm-eval task.
    """
    if data is None or NAME_PLACE not in data:
        return data
    folder = data.replace(NAME_PLACE, name)
    return None if kind == "lm_eval" and not Path(folder).expanduser().exists() else folder


def _files(name: str, kind: str, data: str | None, definition: Path | None, downloads: Path) -> dict[str, Path]:
    if data is None:
        if definition is None:
            raise InputError(f"task.data is missing: a task of kind {kind} needs a folder with train and test files")
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
    """Replace files of equal content by the first of them: equal content is one split."""
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
    """The parts of a definition that decide prompts, answers and scores."""
    if definition is None:
        return None
    whole = definitions.merged(definition)
    # The name of a split decides nothing, but whether examples are rows that validate does.
    config = {key: value for key, value in whole.items() if key not in (DATA_KEYS - {"fewshot_config"}) | NOTES}
    code = sorted((file.name, file_digest(file)) for file in definitions.code_files(definition))
    view = {"config": _plain(config), "code": code, "lm_eval": package_version("lm_eval")}
    return view | ({"examples": "validation"} if definitions.takes_validation(whole) else {})


def _plain(value: Any) -> Any:
    """Return the value with text keys only, as JSON needs them."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
