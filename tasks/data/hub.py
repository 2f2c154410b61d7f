"""Make local copies of data sets on the hub, once each: rows that an lm-eval definition names, and generic text."""

import json
from pathlib import Path
from typing import Any

from tasks.core.errors import EnvironmentFault, InputError
from tasks.data.lm_eval import definitions
from tasks.data.sources import FEATURES_FILE, SPLIT_KEYS
from tasks.models.folder_facts import json_digest
from tasks.store.boundary import translated
from tasks.store.disk import DISK_ERRORS
from tasks.store.files import made_once
from tasks.store.loopback import require_hub
from tasks.store.patience import watched


def definition_files(definition: Path, downloads: Path) -> dict[str, Path]:
    """Return the file of each split that the definition names.

    Raises:
        InputError: when the definition names no training split or its data cannot be loaded.
        EnvironmentFault: when the hub cannot be reached.
    """
    config = definitions.merged(definition)
    names = {split: config[key] for split, key in SPLIT_KEYS.items() if config.get(key)}
    if "train" not in names:
        raise InputError(
            f"task {config.get('task')!r} has no training split: its definition names only"
            f" {', '.join(names.values()) or 'none'}. Give task.data = a folder with train and test files"
        )
    options = config.get("dataset_kwargs") or {}
    if not isinstance(options, dict):
        raise InputError(f"{definition}: dataset_kwargs is a {type(options).__name__}, expected names and values")
    local = options.get("data_files")
    if config.get("dataset_path") == "json" and isinstance(local, dict):
        return {split: _beside(definition, local, name) for split, name in names.items()}
    source = {key: config.get(key) for key in ("dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset")}
    folder = downloads / f"{config['task']}-{json_digest([source, names])[:16]}".replace("/", "_")
    if not folder.is_dir():
        _fetch(config, names, folder)
    return {split: folder / f"{split}.jsonl" for split in names}


def _beside(definition: Path, files: dict[str, Any], name: str) -> Path:
    """Return a data file of a definition, whose path is relative to the definition's folder."""
    value = files.get(name)
    if not isinstance(value, str):
        raise InputError(f"{definition}: data_files names no single file for the split {name!r}")
    path = (definition.parent / value).resolve()
    if not path.is_file():
        raise InputError(f"{definition}: the data file {value} of the split {name!r} does not exist")
    return path


def _fetch(config: dict[str, Any], names: dict[str, str], folder: Path) -> None:
    """Copy the splits of a hub data set into `folder` as JSONL; the folder is complete or absent."""
    if config.get("custom_dataset"):
        raise InputError(f"task {config['task']!r} makes its rows by code; give them as files: task.data = a folder")
    if not isinstance(config.get("dataset_path"), str):
        raise InputError(f"the definition of task {config['task']!r} names no dataset_path: give task.data = a folder")
    data = _load(
        f"task {config['task']!r}",
        config["dataset_path"],
        config.get("dataset_name"),
        config.get("dataset_kwargs") or {},
        "task.data = a folder with train.jsonl, validation.jsonl, test.jsonl",
    )
    if absent := [name for name in names.values() if name not in data]:
        raise InputError(f"{config['dataset_path']} has no split {absent[0]!r}; it has {', '.join(data)}")
    what = f"{config['dataset_path']}: its rows cannot be written as text and numbers"
    with translated(what, quote=False), made_once(folder) as partial:
        for split, name in names.items():
            with open(partial / f"{split}.jsonl", "w", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in data[name])
        # Names of classes and the like, which the rows alone do not contain.
        (partial / FEATURES_FILE).write_text(json.dumps(data[names["train"]].features.to_dict()))


def text_files(name: str, downloads: Path) -> Path:
    """Return a folder with the `text` fields of a hub data set as JSONL, made once, for train and validation only.

    name: `owner/name`, or `owner/name:configuration`. A data set without a validation split gives a train file only.
    """
    folder = downloads / f"text-{json_digest(name)[:16]}"
    if folder.is_dir():
        return folder
    path, _, configuration = name.partition(":")
    advice = "distill.data = a folder with train.jsonl or train.txt, and the same for validation"
    data = _load("distill.data", path, configuration or None, {}, advice)
    if "train" not in data or "text" not in data["train"].column_names:
        found = f"{', '.join(data)} with {', '.join(next(iter(data.values())).column_names)}"
        raise InputError(f"distill.data = {name!r} has no split train with a field text; it has {found}")
    what = f"distill.data = {name!r}: its text cannot be written"
    with translated(what, quote=False), made_once(folder) as partial:
        for split in ("train", "validation"):
            if split in data:
                with open(partial / f"{split}.jsonl", "w", encoding="utf-8") as file:
                    rows = (json.dumps({"text": text}, ensure_ascii=False) for text in data[split]["text"])
                    file.writelines(row + "\n" for row in rows)
    return folder


def _load(what: str, path: str, name: str | None, given: dict[str, Any], advice: str) -> Any:
    """Load all splits of a data set. what: the setting or task that needs it; advice: what to set instead."""
    import datasets

    require_hub()
    datasets.disable_progress_bars()
    # Since release 4, datasets never runs the code of a data set, and refuses the option to do so.
    options = {key: value for key, value in given.items() if key != "trust_remote_code"}
    with translated(f"{what}: {path} cannot be loaded", f"Give the rows as files: {advice}"):
        try:
            with watched(f"the download of the data set {path}"):
                _require_network(path)
                return datasets.load_dataset(path, name, **options)
        except datasets.exceptions.DatasetNotFoundError:
            raise InputError(f"{what}: the hub has no public data set {path}") from None
        except datasets.exceptions.DataFilesNotFoundError:
            raise InputError(f"{what}: {path} has no data files that can be read; give {advice}") from None
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise
            raise EnvironmentFault(
                f"{what}: the data hub cannot be reached for {path} ({type(error).__name__})."
                f" Give the rows as files ({advice}), or set"
                " HF_HUB_OFFLINE=1 where an earlier download is still in the hub's cache"
            ) from None


def _require_network(path: str) -> None:
    """Send one request, so that a machine without a network fails at once: the loader retries for half a minute."""
    import huggingface_hub

    if not huggingface_hub.is_offline_mode() and not Path(path).exists():
        try:
            huggingface_hub.HfApi().dataset_info(path, timeout=10)
        except huggingface_hub.errors.RepositoryNotFoundError:
            return  # the loader knows more kinds of paths
        except Exception as error:  # whichever client the hub's library uses, its errors are not OSErrors
            raise ConnectionError(type(error).__name__) from None
