"""What settings ask of a model's family, and that a family which cannot do it is refused before anything runs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from flows.running.inputs import Inputs
from flows.running.operations import run_operations
from flows.settings.kinds import StudySettings
from flows.settings.reading import read_settings
from flows.studies.cells import make_cells_of, open_inputs
from flows.studies.operations import study_operations
from tasks.core.errors import InputError
from tests.flows.commands import DEMO, artifacts, small_settings
from tests.tasks.chain import write_model

ALWAYS = {"capture", "scoring", "surgery", "tuning"}
QUESTIONS: Any = SimpleNamespace(kind="lm_eval", name="people", yaml=str(DEMO / "task" / "people.yaml"))


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ((), {"sharing"}),
        (("strategy=uniform",), set()),
        (("strategy=uniform", "plan.share=all"), {"sharing"}),
        (("plan.share=none",), set()),
        (("plan.share=linear",), {"stand_ins"}),
        (("strategy=spans",), {"stand_ins"}),
        # Its evidence needs maps, whatever runs in the end.
        (("strategy=spans", "plan.share=all"), {"sharing", "stand_ins"}),
        (("plan.share=none", "support.final_norm=true"), {"lens"}),
    ],
)
def test_a_run_asks_for_what_its_settings_need(tmp_path: Path, changes: tuple[str, ...], more: set[str]) -> None:
    settings = read_settings(small_settings(tmp_path), [*changes])
    assert run_operations(settings, QUESTIONS).keys() == ALWAYS | more


def test_a_task_of_generated_text_asks_for_the_cache(tmp_path: Path) -> None:
    settings = read_settings(small_settings(tmp_path), ["plan.share=none"])
    definition = tmp_path / "own.yaml"
    for output, more in (("generate_until", {"cache", "generation"}), ("multiple_choice", set()), (None, {"cache"})):
        definition.write_text(yaml.dump({"task": "own"} | ({"output_type": output} if output else {})))
        task: Any = SimpleNamespace(kind="lm_eval", name="own", yaml=str(definition))
        assert run_operations(settings, task).keys() >= ALWAYS | more
        assert ("generation" in run_operations(settings, task)) == bool(more)
    text: Any = SimpleNamespace(kind="text", name="own", yaml=None)
    assert run_operations(settings, text).keys() == ALWAYS


@pytest.mark.parametrize(
    ("parts", "changes", "expected"),
    [
        ('["weights"]', ("full_tune.enabled=false",), set()),
        ('["similarity"]', (), {"capture"}),
        ('["similarity"]', ("study.against=emulator",), {"capture", "surgery", "sharing"}),
        ('["lens"]', ("study.trajectory_rows=0",), {"capture", "lens"}),
        ('["lens"]', (), {"capture", "lens", "surgery"}),
        ('["importance"]', (), {"scoring", "surgery", "tuning"}),
        ('["importance"]', ("study.rewound=false",), {"scoring", "surgery"}),
        ('["landscape"]', ('study.points=["initial", "full"]',), {"scoring", "tuning"}),
    ],
)
def test_a_study_asks_for_what_its_parts_need(
    tmp_path: Path, parts: str, changes: tuple[str, ...], expected: set[str]
) -> None:
    settings = read_settings(small_settings(tmp_path), [f"study.parts={parts}", *changes], StudySettings)
    assert study_operations(settings, QUESTIONS).keys() == expected


def test_a_family_is_refused_for_what_is_asked_of_it_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "model")
    settings = small_settings(tmp_path, model=str(tmp_path / "model"))
    few = ["plan.num_kept=4", "plan.num_tuned=2", "support.num_rows=8"]
    why = {"sharing": "its weights change in place", "lens": "there is no norm"}
    monkeypatch.setattr("flows.running.inputs.failed_operations", lambda family: why)
    message = r"model is of family opt, in which sharing blocks \(asked for by plan.share of crash\) is not exact: its"
    with pytest.raises(InputError, match=message):
        Inputs(read_settings(settings, few))
    cells = make_cells_of(read_settings(settings, [*few, 'study.parts=["lens"]'], StudySettings), {})
    with pytest.raises(InputError, match=r"reading states by .* \(asked for by study.parts = \[\"lens\"\]\)"):
        open_inputs(cells)
    assert not artifacts(tmp_path / "home/store")
