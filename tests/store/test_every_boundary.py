"""Whatever another package raises where the product calls it on a user's files is one line with an exit code."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassError
from pyarrow import ArrowInvalid
from safetensors import SafetensorError

from tasks.core.errors import CrashError, EnvironmentFault, InputError
from tasks.data.hub import text_files
from tasks.data.lm_eval.code import load_definition
from tasks.data.lm_eval.task import attempt
from tasks.data.resolving import resolve_task
from tasks.data.rows.reading import Row
from tasks.data.rows.tables import make_table, read_features
from tasks.data.sources import TaskSource
from tasks.models.checks import check_model
from tasks.models.folder import load_config, load_folder
from tasks.models.loading import tokenizer_of
from tasks.models.resolving import resolve_model
from tasks.models.shape import config_folder
from tests.places import ROOT
from tests.store.folders import make_folder
from tests.store.test_boundary import PanicException

KINDS = [
    KeyError("layer_types"),
    TypeError("'int' object has no attribute 'strip'"),
    RuntimeError("size mismatch\n  for weight"),
    ModuleNotFoundError("No module named 'gptqmodel'", name="gptqmodel"),
    StrictDataclassError("layer_types:\n  has 8 entries"),
    ArrowInvalid("cannot mix list and non-list"),
    SafetensorError("header too large"),
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    RecursionError("maximum recursion depth exceeded"),
    PanicException("index out of bounds"),
]
PEOPLE = ROOT / "flows" / "demo" / "task"
ROWS = [Row(1, {"question": "Who?"})]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("boundary") / "model")
    (folder / "features.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def task() -> TaskSource:
    return resolve_task({"name": "people", "data": str(PEOPLE)})


# What is called, and what of another package it then calls.
BOUNDARIES: dict[str, Callable[[Path, TaskSource], object]] = {
    "transformers.AutoConfig.from_pretrained": lambda folder, _: load_config(folder),
    "transformers.AutoModelForCausalLM.from_config": lambda folder, _: check_model(folder, "model"),
    "transformers.AutoModelForCausalLM.from_pretrained": lambda folder, _: load_folder(folder),
    "transformers.GenerationConfig.from_pretrained": lambda folder, _: check_model(folder, "model"),
    "transformers.AutoTokenizer.from_pretrained": lambda folder, _: tokenizer_of(folder),
    "huggingface_hub.snapshot_download": lambda *_: resolve_model("some/model"),
    "huggingface_hub.hf_hub_download": lambda *_: config_folder("some/model", None),
    "datasets.load_dataset": lambda folder, _: text_files("some/text", folder),
    "datasets.Features.from_dict": lambda folder, _: read_features(folder / "features.json"),
    "datasets.Dataset.from_list": lambda folder, _: make_table(folder / "rows.jsonl", ROWS),
    "lm_eval.tasks._yaml_loader.load_yaml": lambda _, task: load_definition(task),
    "lm_eval.api.task.ConfigurableTask": lambda _, task: attempt(task, "train", ROWS),
}


# pyarrow and lm-eval call no Rust code, which alone panics.
WITHOUT_RUST = ("datasets.Dataset.from_list", "lm_eval.api.task.ConfigurableTask")
RAISED = [
    pytest.param(called, error, id=f"{called}-{type(error).__name__}")
    for called in BOUNDARIES
    for error in KINDS
    if called not in WITHOUT_RUST or not isinstance(error, PanicException)
]


@pytest.mark.parametrize(("called", "error"), RAISED)
def test_what_is_raised_there_is_one_line(
    folder: Path, task: TaskSource, monkeypatch: pytest.MonkeyPatch, called: str, error: BaseException
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(called, fail)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    with pytest.raises(CrashError) as caught:
        BOUNDARIES[called](folder, task)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InputError), caught.value
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("called", [name for name in BOUNDARIES if not name.startswith(("datasets.D", "lm_eval"))])
def test_a_full_disk_there_is_the_environments_fault(
    folder: Path, task: TaskSource, monkeypatch: pytest.MonkeyPatch, called: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/some/cache")

    monkeypatch.setattr(called, fail)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    with pytest.raises(EnvironmentFault, match="No space left on device") as caught:
        BOUNDARIES[called](folder, task)
    assert caught.value.exit_code == 4
