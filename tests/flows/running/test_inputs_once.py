"""A flow takes over the inputs that its command has resolved; without a command it resolves them itself."""

import pytest

from flows.running import inputs
from flows.settings.kinds import StudySettings
from flows.settings.reading import read_settings
from flows.studies.cells import make_cells_of, open_inputs
from tests.flows.commands import DEMO, small_settings


@pytest.fixture
def resolved(monkeypatch):
    """The names of the tasks whose inputs were resolved, one after another."""
    found = []
    monkeypatch.setattr(inputs.Inputs, "__init__", lambda self, settings, **_: found.append(settings.task.name))
    return found


def test_what_was_prepared_is_taken_once(resolved, tmp_path):
    settings = read_settings(small_settings(tmp_path), [])
    prepared = inputs.prepare_inputs(settings)
    assert inputs.take_inputs(settings.model_copy(deep=True)) is prepared
    assert resolved == ["people"]
    assert inputs.take_inputs(settings) is not prepared
    assert resolved == ["people", "people"]


def test_other_settings_are_resolved_anew(resolved, tmp_path):
    settings = read_settings(small_settings(tmp_path), [])
    prepared = inputs.prepare_inputs(settings)
    other = read_settings(tmp_path / "settings.toml", ["tune.num_steps=5"])
    assert inputs.take_inputs(other) is not prepared
    assert inputs.take_inputs(settings) is prepared


def test_each_cell_of_a_study_is_resolved_once(resolved, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.studies.cells.find_others", lambda settings, model: None)
    monkeypatch.setattr(inputs.Inputs, "model", None, raising=False)
    settings = read_settings(small_settings(tmp_path), ["study.parts=['similarity']"], StudySettings)
    other = {"name": "biographies", "task.name": "biographies", "task.kind": "text", "task.data": str(DEMO / "text")}
    cells = make_cells_of(settings, {"variant": [{"name": "questions"}, other]})
    first = open_inputs(cells, inputs.prepare_inputs)
    assert open_inputs(cells) == first
    assert resolved == ["people", "biographies"]
