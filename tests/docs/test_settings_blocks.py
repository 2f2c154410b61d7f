"""Every TOML block of a page is what the settings reader takes, and every setting in the prose exists."""

import re
import tomllib
from pathlib import Path

import pytest

from docs.project import STRATEGIES, AllSettings, make_cells, read_sweep
from tests.docs.pages import DOCS, Block, blocks, pages

# What a block leaves to the rest of a file.
NEEDED = {"model.name": "owner/model", "task.name": "arc_easy", "plan.num_kept": "12", "tune.num_epochs": "5"}
# A setting among words: `group.key`, alone or with a value.
SETTING = re.compile(r"`([a-z_]+)\.([a-z_]+)(?: = [^`]*)?`")
FILES = {"csv", "html", "json", "md", "png", "safetensors", "toml"}
GROUPS = {name: field.annotation for name, field in AllSettings.model_fields.items()}


@pytest.mark.parametrize("block", blocks("toml"), ids=lambda block: block.place)
def test_settings_are_taken(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(block.text)
    values = tomllib.loads(block.text)
    missing = [f"{key}={value}" for key, value in NEEDED.items() if not is_given(values, key)]
    assert make_cells(*read_sweep(file, missing))


def is_given(values: dict, key: str) -> bool:
    group, name = key.split(".")
    steps = ("num_steps", "num_epochs")
    return any(each in values.get(group, {}) for each in (steps if name in steps else (name,)))


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_settings_in_the_prose_exist(page: Path) -> None:
    named = [(group, key) for group, key in SETTING.findall(page.read_text()) if group in GROUPS and key not in FILES]
    unknown = [f"{group}.{key}" for group, key in named if key not in GROUPS[group].model_fields]
    assert unknown == []


def test_every_strategy_is_explained() -> None:
    text = (DOCS / "reference" / "strategies.md").read_text()
    explained = [name for line in re.findall(r"^(`.*`)\n: ", text, re.M) for name in re.findall(r"`(\w+)`", line)]
    assert sorted(explained) == sorted(STRATEGIES)
