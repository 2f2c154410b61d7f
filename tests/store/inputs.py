"""Inputs for tests: models with tokenizers, the rows of tasks, hand-written rows, and lm-eval as it is by itself."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from lm_eval.tasks import TaskManager

from tasks.data.resolving import resolve_task
from tasks.data.sources import TaskSource
from tasks.models.resolving import resolve_model
from tasks.models.source import ModelSource

QA_TASKS = ("openbookqa", "piqa", "arc_easy", "arc_challenge", "hellaswag", "sciq", "webqs", "race")
SCORES_VALIDATION = ("piqa", "hellaswag")
LIMIT = 12
WINS, LOSES = (0.0, True), (-1e9, False)


def real_task(real_data: Path, name: str, **options: Any) -> TaskSource:
    """A stock task over its rows in the folder, the first 12 of each split."""
    limits = {"num_train": LIMIT, "num_validation": LIMIT, "num_test": LIMIT}
    return resolve_task({"name": name, "data": str(real_data / "tasks" / name), **limits, **options})


def stories(real_data: Path) -> ModelSource:
    """The real trained model of 260 thousand parameters."""
    return resolve_model(str(real_data / "models" / "stories260K"))


def random_opt(real_data: Path, folder: Path) -> ModelSource:
    """An OPT with random weights and a tokenizer in the form of OPT's, saved in `folder`."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    config = OPTConfig(
        hidden_size=16, word_embed_proj_dim=16, ffn_dim=32, num_hidden_layers=3, num_attention_heads=2, init_std=0.2
    )
    OPTForCausalLM(config).eval().save_pretrained(folder)
    for file in (real_data / "tokenizers" / "opt").iterdir():
        shutil.copy(file, folder)
    return resolve_model(str(folder))


def write_rows(path: Path, rows: list[dict]) -> Path:
    """A JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def question(number: int = 0, **changes: Any) -> dict:
    """A row in the form of ARC; a change to None takes the field away."""
    row = {
        "id": f"q{number}",
        "question": f"What comes after {number}?",
        "choices": {"text": ["one", "two", "three"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    }
    return {key: value for key, value in (row | changes).items() if value is not None}


def own_task(folder: Path, train: list[dict], test: list[dict] | None = None, name: str = "arc_easy") -> TaskSource:
    """A stock task over hand-written rows."""
    write_rows(folder / "train.jsonl", train)
    write_rows(folder / "test.jsonl", test or [question(999)])
    return resolve_task({"name": name, "data": str(folder)})


def stock_tasks(real_data: Path, folder: Path, names: tuple[str, ...], split: str | None = None) -> dict[str, Any]:
    """lm-eval's own task objects over the same rows, made by its own loader from a YAML a task.

    split: which file is scored; by default the one that the stock task scores.
    """
    stock_yaml(real_data, folder, names, split)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return manager.load(list(names))["tasks"]


def stock_yaml(real_data: Path, folder: Path, names: Sequence[str], split: str | None = None) -> None:
    """A YAML for each task in `folder` that points lm-eval's stock definition at the same rows."""
    folder.mkdir()
    for name in names:
        file = split or ("validation" if name in SCORES_VALIDATION else "test")
        (folder / f"{name}.yaml").write_text(yaml.dump(_stock_yaml(real_data, folder, name, file)))


def stock_file(name: str) -> str:
    """The file of lm-eval's stock definition of a task."""
    root = Path(lm_eval.__file__).parent / "tasks"
    return str(next(path for path in sorted(root.rglob("*.yaml")) if path.stem == name))


def _stock_yaml(real_data: Path, folder: Path, name: str, file: str) -> dict[str, Any]:
    files = {"test": str(real_data / "tasks" / name / f"{file}.jsonl")}
    return {
        "include": stock_file(name),
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
    }


def right_request(task: Any, requests: list[Any]) -> Any:
    """The request without which lm-eval gives no point: found by its scoring, not by its labels."""
    metric = "acc" if "acc" in task._metric_fn_list else "exact_match"
    points = []
    for right in range(len(requests)):
        answers = [WINS if at == right else LOSES for at in range(len(requests))]
        points.append(task.process_results(requests[0].doc, answers)[metric])
    return requests[points.index(1)]
