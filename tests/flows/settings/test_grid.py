"""A list anywhere in the settings makes a grid, checked before anything is computed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.settings.grid import describe_values, make_cells, split_axes
from flows.settings.reading import read_settings, read_sweep
from flows.settings.run import Settings
from tasks.core.errors import InputError

BASE = {"model": {"name": "m"}, "task": {"name": "t"}, "plan": {"num_kept": 6}}


def test_scalars_become_axes_and_lists_stay_lists():
    values = {
        **BASE,
        "strategy": ["uniform", "crash"],
        "plan": {"num_kept": [4, 6], "kept": [1, 2]},
        "tune": {"learning_rate": [1e-4, 5e-4], "seeds": [0, 1], "betas": [0.9, 0.99]},
    }
    base, axes = split_axes(values)
    assert axes == {"plan.num_kept": [4, 6], "tune.learning_rate": [1e-4, 5e-4]}
    assert base["plan"] == {"num_kept": 4, "kept": [1, 2]}
    assert base["tune"] == {"learning_rate": 1e-4, "seeds": [0, 1], "betas": [0.9, 0.99]}
    assert base["strategy"] == ["uniform", "crash"]


def test_a_list_of_lists_is_an_axis_of_a_setting_that_is_a_list():
    base, axes = split_axes({**BASE, "strategy": [["uniform"], ["crash"]], "tune": {"seeds": [[0], [1, 2]]}})
    assert axes == {"strategy": [["uniform"], ["crash"]], "tune.seeds": [[0], [1, 2]]}
    assert base["strategy"] == ["uniform"]


def test_several_models_and_tasks():
    _, axes = split_axes({**BASE, "model": {"name": ["a", "b"]}, "task": {"name": ["x", "y", "z"]}})
    assert axes == {"model.name": ["a", "b"], "task.name": ["x", "y", "z"]}


@given(
    st.lists(st.integers(4, 8), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(1, 9), min_size=1, unique=True),
)
def test_every_combination_once_and_only_the_axes_differ(kept, steps):
    base, axes = split_axes({**BASE, "plan": {"num_kept": kept, "num_tuned": 4}, "tune": {"num_steps": steps}})
    cells = make_cells(Settings.model_validate(base), axes)
    found = [(cell.plan.num_kept, cell.tune.num_steps) for _, cell in cells]
    assert found == [(one, other) for one in kept for other in steps]
    assert all(cell.plan.num_tuned == 4 for _, cell in cells)
    assert len({describe_values(values) for values, _ in cells}) == len(cells)


def test_what_was_not_set_stays_unset_in_every_cell():
    base, axes = split_axes({**BASE, "plan": {"num_kept": [4, 6]}})
    for _, cell in make_cells(Settings.model_validate(base), axes):
        assert "place" not in cell.model_fields_set


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"plan.num_keep": [1]}, "no such setting"),
        ({"nonsense": [1]}, "choose from: model, task"),
        ({"plan.num_kept": []}, "no values"),
        ({"plan.num_kept": [4, 4]}, "twice"),
        ({"plan.num_kept": [6, 0]}, r"plan.num_kept=0: plan.num_kept: .*greater than 0"),
        ({"plan.num_tuned": [4, 7]}, "tune at most as many as are kept"),
        ({"tune.learning_rate": ["fast"]}, "learning_rate=fast"),
        ({"plan.num_kept": list(range(1, 200)), "tune.num_steps": list(range(1, 200))}, "at most 10000"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_by_name(axes, words):
    with pytest.raises(InputError, match=words):
        make_cells(Settings.model_validate(BASE), axes)


def test_an_empty_list_in_the_file_is_refused(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text('[model]\nname = "m"\n[task]\nname = "t"\n[plan]\nnum_kept = []\n')
    with pytest.raises(InputError, match=r"sweep.toml:6: plan.num_kept"):
        read_sweep(path)


def test_changes_on_the_command_line_make_axes_too(tmp_path):
    path = Path(tmp_path / "sweep.toml")
    path.write_text('[model]\nname = "m"\n[task]\nname = "t"\n[plan]\nnum_kept = 6\n')
    _, axes = read_sweep(path, ["tune.learning_rate=[1e-4, 2e-4]"])
    assert axes == {"tune.learning_rate": [1e-4, 2e-4]}


VARIANTS = [
    {"name": "uniform", "strategy": "uniform"},
    {"name": "crash without sharing", "strategy": ["crash"], "plan": {"share": "none"}},
    {"name": "longer", "tune.num_steps": 9, "plan.num_kept": 5},
]


def test_variants_are_one_axis_beside_the_others():
    base, axes = split_axes({**BASE, "variants": VARIANTS, "tune": {"learning_rate": [1e-4, 5e-4]}})
    assert list(axes) == ["variant", "tune.learning_rate"]
    cells = make_cells(Settings.model_validate(base), axes)
    assert [(values["variant"], values["tune.learning_rate"]) for values, _ in cells] == [
        (variant["name"], rate) for variant in VARIANTS for rate in (1e-4, 5e-4)
    ]
    found = {values["variant"]: cell for values, cell in cells}
    assert found["uniform"].strategy == ("uniform",)
    assert (found["crash without sharing"].plan.share, found["crash without sharing"].plan.num_kept) == ("none", 6)
    assert (found["longer"].tune.num_steps, found["longer"].plan.num_kept) == (9, 5)
    assert found["longer"].plan.share == found["uniform"].plan.share == Settings.model_validate(BASE).plan.share
    assert {cell.tune.learning_rate for _, cell in cells} == {1e-4, 5e-4}


def test_a_variant_changes_no_other_variant():
    alone = make_cells(Settings.model_validate(BASE), {"variant": VARIANTS[:1]})
    beside = make_cells(Settings.model_validate(BASE), {"variant": VARIANTS[::-1]})
    assert alone[0][1] == beside[-1][1]


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        (
            [{"name": "a", "plan": {"num_keep": 4}}],
            r"'a' sets plan.num_keep.*did you mean num_kept\? choose from: num_",
        ),
        ([{"name": "a", "plam.num_kept": 4}], r"'a' sets plam.num_kept.*did you mean plan\?"),
        ([{"name": "a", "plan": 4}], r"sets plan, which is a table of settings; choose from: num_kept"),
        ([{"name": "a", "plan.num_kept.x": 4}], "no such setting; plan.num_kept is a value"),
        ([{"name": "a"}, {"name": "a"}], "'a' is given twice"),
        ([{"name": "a"}, {"plan.num_kept": 4}], "variant 2 has no name"),
        ([], "at least one"),
        (3, "at least one"),
        ([{"name": "a", "plan.share": "nobody"}], r"the cell variant=a: plan.share: .*'?none'?"),
        ([{"name": "a", "strategy": "crush"}], r"the cell variant=a: strategy.*'crash'"),
        ([{"name": "a"}, {"name": "b", "plan.num_tuned": 7}], r"the cell variant=b: plan: num_tuned = 7"),
    ],
)
def test_a_variant_that_cannot_be_is_refused_by_name(variants, words):
    with pytest.raises(InputError, match=words):
        make_cells(Settings.model_validate(BASE), {"variant": variants})


def test_a_variant_and_an_axis_do_not_change_the_same():
    base, axes = split_axes({**BASE, "plan": {"num_kept": [4, 6]}, "variants": VARIANTS})
    with pytest.raises(InputError, match=r"'longer' sets plan.num_kept, which is an axis"):
        make_cells(Settings.model_validate(base), axes)


def test_variants_in_a_file(tmp_path):
    (tmp_path / "rows").mkdir()
    path = Path(tmp_path / "sweep.toml")
    text = (
        '[model]\nname = "m"\n[task]\nname = "t"\n[plan]\nnum_kept = 6\n[[variants]]\nname = "a"\ntask.data = "rows"\n'
    )
    path.write_text(text)
    settings, axes = read_sweep(path, ["tune.learning_rate=[1e-4, 2e-4]"])
    assert list(axes) == ["variant", "tune.learning_rate"]
    assert all(cell.task.data == str(tmp_path / "rows") for _, cell in make_cells(settings, axes))
    with pytest.raises(InputError, match=r"sweep.toml:7: variants are run side by side by `crash sweep`"):
        read_settings(path)
    path.write_text("variants = 3\n" + text.partition("[[variants]]")[0])
    with pytest.raises(InputError, match="at least one variant"):
        make_cells(*read_sweep(path))


def test_a_ready_file_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, axes = read_sweep(Path("demo.toml"))
    assert Path(settings.model.name).is_dir()
    assert "crash without sharing" in [variant["name"] for variant in axes["variant"]]
    Path("demo.toml").write_text('[model]\nname = "m"\n[task]\nname = "t"\n[plan]\nnum_kept = 6\n')
    assert read_sweep(Path("demo.toml"))[0].model.name == "m", "a file of one's own comes first"
