"""Settings: what is refused, where the message points, and that the README lists them all."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from docs.generate.settings_reference import updated
from flows.running.arguments import Arguments
from flows.service.submit import portable
from flows.settings.grid import make_cells
from flows.settings.kinds import AllSettings, EmulateSettings, SearchSettings, StudySettings
from flows.settings.reading import read_settings, read_sweep
from flows.settings.run import Settings
from tasks.core.errors import InputError
from tests.places import DEMO, ROOT


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


MINIMAL = '[model]\nname = "m"\n[task]\nname = "t"\n[plan]\nnum_kept = 6\n'


def test_the_demo_settings_are_valid_and_find_their_folders():
    settings = read_settings(DEMO / "settings.toml")
    assert settings.strategy == ("uniform", "crash")
    assert Path(settings.model.name).is_dir()
    assert Path(settings.task.data or "").is_dir()


def test_unknown_key_names_file_line_key_and_the_meant_one(tmp_path):
    path = write(tmp_path, MINIMAL + "[tune]\nlearnig_rate = 1e-4\n")
    with pytest.raises(
        InputError, match=r"settings\.toml:8: unknown setting tune\.learnig_rate.*Did you mean learning_rate"
    ):
        read_settings(path)


def test_wrong_type_names_line_and_value(tmp_path):
    path = write(tmp_path, MINIMAL.replace("6", '"six"'))
    with pytest.raises(InputError, match=r"settings\.toml:6: plan\.num_kept: .*integer.*'six'"):
        read_settings(path)


def test_unknown_strategy_lists_the_choices(tmp_path):
    path = write(tmp_path, 'strategy = "crsh"\n' + MINIMAL)
    with pytest.raises(InputError, match=r"'crash', 'uniform', .*'spans', 'scaleot' or 'fixed'"):
        read_settings(path)


def test_half_written_file_names_the_place(tmp_path):
    path = write(tmp_path, MINIMAL + "[tune\n")
    with pytest.raises(InputError, match=r"settings\.toml: not valid TOML: .*line 7"):
        read_settings(path)


def test_missing_file_and_missing_key(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_settings(tmp_path / "none.toml")
    with pytest.raises(InputError, match=r"the setting plan is missing"):
        read_settings(write(tmp_path, '[model]\nname = "m"\n[task]\nname = "t"\n'))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("plan.num_tuned=9", "num_tuned = 9 but num_kept = 6"),
        ("plan.num_tuned=0", "greater than 0"),
        ("tune.learning_rate=0", "greater than 0"),
        ("tune.seeds=[]", "at least 1 item"),
        ("tune.seeds=[1, 1]", "names a seed twice"),
        ("strategy=fixed", "needs plan.kept and plan.tuned"),
        ("tune.num_epochs=few", "valid integer"),
        ("tune", "write it as key=value"),
        ("tune.method=lara", "'blocks', 'lora', 'adapter', 'bitfit' or 'prompt'"),
        ("tune.trained=some", "'tuned', 'frozen' or 'all'"),
        ("tune.patience=3", "patience needs validation losses: give eval_steps"),
        ("tune.learning_rates=[1e-4, 1e-3]", "learning_rates needs validation losses: give eval_steps"),
        ("tune.learning_rates=[0.0]", "tune.learning_rates: rates are numbers greater than 0"),
        ("tune.learning_rates=automatic", "tune.learning_rates: neither a list of rates nor .auto."),
        ("tune.lora_rank=0", "greater than 0"),
        ("tune.dp_noise=-1", "greater than or equal to 0"),
        ("tune.dp_delta=1", "less than 1"),
        ("tune.max_change=0", "greater than 0"),
        ("tune.lora_dropout=1.0", "less than 1"),
    ],
)
def test_refused_change(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        read_settings(write(tmp_path, MINIMAL), [change])


def test_epochs_and_steps_exclude_one_another(tmp_path):
    with pytest.raises(InputError, match="not both"):
        read_settings(write(tmp_path, MINIMAL), ["tune.num_epochs=1", "tune.num_steps=2"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["tune.eval_steps=2", "tune.learning_rates=[1e-4, 1e-4]"], "names a rate twice"),
        (["tune.method=prompt", "tune.lm_head=true"], 'tune: method = "prompt" trains no block and no head: leave'),
        (["tune.trained=all", "compress.method=prune", "compress.ratio=0.5"], "would fill what was pruned; train"),
        (["tune.trained=frozen", "compress.method=quantise", "compress.bits=4"], "take the weights off their levels"),
        (
            ["tune.trained=all", "tune.method=lora", "compress.method=low_rank", "compress.rank=2"],
            "LoRA has no place on weights in two factors; choose tune.method from blocks, adapter, bitfit",
        ),
        (["tune.dp_noise=1", "tune.learning_rates=auto"], "tune: dp_noise cannot be combined with eval_steps"),
        (["tune.dp_noise=1", "tune.learning_rates=[1e-4, 1e-3]"], "dp_noise cannot be combined with learning_rates"),
        (["tune.dp_noise=1", "place.parallel=data"], 'tune.dp_noise with place.parallel = "data": gradients of single'),
        (
            ["tune.max_change=0.1", "tune.method=prompt"],
            'max_change with method = "prompt": it limits changes of blocks',
        ),
        (["tune.max_change=0.1", "tune.lm_head=true"], "max_change with lm_head: it limits changes of blocks"),
        (
            ["tune.trained=frozen", "tune.freeze_bottom=true"],
            'tune: freeze_bottom has no effect with trained = "frozen"',
        ),
    ],
)
def test_refused_together(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_settings(write(tmp_path, MINIMAL), changes)


def test_the_full_models_tuning_is_neither_private_nor_limited(tmp_path):
    settings = read_settings(write(tmp_path, MINIMAL), ["tune.dp_noise=1", "tune.max_change=0.1"])
    arguments = Arguments(settings, "float32")
    tuned, full = arguments.tune(0)["settings"], arguments.full_tune(0)["settings"]
    assert (tuned.dp_noise, tuned.max_change) == (1.0, 0.1)
    assert (full.dp_noise, full.max_change) == (None, None)


def test_rates_are_chosen_from_a_grid_of_the_method(tmp_path):
    auto = read_settings(write(tmp_path, MINIMAL), ["tune.learning_rates=auto"]).tune
    assert len(auto.rates) > 2
    assert auto.full_rates == auto.rates
    assert auto.eval_steps is not None
    lora = read_settings(
        write(tmp_path, MINIMAL), ["tune.learning_rates=auto", "tune.method=lora", "tune.eval_steps=7"]
    ).tune
    assert min(lora.rates) > min(auto.rates)
    assert (lora.full_rates, lora.eval_steps) == (auto.rates, 7)


def test_a_cell_with_rates_of_its_own_does_not_inherit_the_validations_of_auto(tmp_path):
    file = tmp_path / "sweep.toml"
    given = '\n[tune]\nlearning_rates = "auto"\n[[variants]]\nname = "one"\ntune.learning_rates = []\n'
    file.write_text(MINIMAL + given + '[[variants]]\nname = "auto"\nstrategy = "uniform"\n')
    one, auto = (cell.tune for _, cell in make_cells(*read_sweep(file)))
    assert (one.rates, one.eval_steps) == ((one.learning_rate,), None)
    assert auto.eval_steps is not None
    file.write_text(MINIMAL + given.replace("[]", "[1e-4, 1e-3]"))
    with pytest.raises(InputError, match="learning_rates needs validation losses: give eval_steps"):
        make_cells(*read_sweep(file))


def test_a_sweep_over_methods_takes_the_grid_of_each(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(MINIMAL + '\n[tune]\nlearning_rates = "auto"\nmethod = ["blocks", "lora"]\n')
    rates = [cell.tune.rates for _, cell in make_cells(*read_sweep(file))]
    assert rates[0] != rates[1]


def test_rates_of_the_full_model(tmp_path):
    file = write(tmp_path, MINIMAL)
    with pytest.raises(InputError, match="learning_rates needs validation losses: give tune"):
        read_settings(file, ["full_tune.learning_rates=[1e-5, 2e-5]"])
    with pytest.raises(InputError, match="names a rate twice"):
        read_settings(file, ["full_tune.learning_rates=[1e-5, 1e-5]", "tune.eval_steps=5"])
    with pytest.raises(InputError, match="give learning_rate or learning_rates"):
        read_settings(file, ["full_tune.learning_rates=[1e-5]", "full_tune.learning_rate=1e-5"])
    found = read_settings(file, ["full_tune.learning_rates=[1e-5, 2e-5]", "tune.eval_steps=5"])
    assert found.full_tune.rates == (1e-5, 2e-5)


def test_set_overrides_the_file(tmp_path):
    settings = read_settings(
        write(tmp_path, MINIMAL), ["tune.seeds=[3, 4]", "model.name=other", "full_tune.enabled=false"]
    )
    assert settings.tune.seeds == (3, 4)
    assert settings.model.name == "other"
    assert not settings.full_tune.enabled


OTHERS = '[search]\nmax_disclosed = 0.5\n[study]\nparts = ["lens"]\n'


@pytest.mark.parametrize("kind", [Settings, SearchSettings, StudySettings])
def test_a_flow_takes_its_own_tables_and_refuses_what_is_wrong_in_those_of_others(tmp_path, kind):
    path = write(tmp_path, MINIMAL + OTHERS)
    settings = read_settings(path, kind=kind)
    assert type(settings) is kind
    assert (getattr(settings, "search", None) is None) == (kind is not SearchSettings)
    assert (getattr(settings, "study", None) is None) == (kind is not StudySettings)
    base, axes = read_sweep(path, ["plan.num_kept=[6, 7]"], kind)
    assert {type(cell) for _, cell in make_cells(base, axes)} == {kind}
    with pytest.raises(InputError, match=r"settings.toml:8: search\.max_disclosed: .*less than or equal to 1"):
        read_settings(path, ["search.max_disclosed=2"], kind)
    with pytest.raises(InputError, match=r"unknown setting study\.part\. Did you mean parts"):
        read_settings(path, ["study.part=lens"], kind)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tune.learning_rate=0", r"tune\.learning_rate: .*greater than 0"),
        ("full_tune.learning_rate=0", r"full_tune\.learning_rate: .*greater than 0"),
        ("distill.learning_rate=0", r"distill\.learning_rate: .*greater than 0"),
        ("tune.patience=3", "tune: patience needs validation losses"),
        ("tune.betas=[0.9, 1.0]", r"tune\.betas\.1: .*less than 1"),
        ('compress.method="prune"', "compress: method = .prune. needs ratio"),
    ],
)
def test_a_message_names_the_table_that_the_user_wrote(tmp_path, change, message):
    path = write(tmp_path, MINIMAL)
    with pytest.raises(InputError, match=rf"settings\.toml(:\d+)?: {message}"):
        read_settings(path, [change])
    key, _, value = change.partition("=")
    with pytest.raises(InputError, match=f"the cell {key}=.*: {message}"):
        make_cells(read_settings(path), {key: [tomllib.loads(f"value = {value}")["value"]]})


def test_a_distillation_that_never_reaches_its_rate_is_named_by_its_table(tmp_path):
    given = ["distill.enabled=true", "distill.data=text", "distill.num_steps=10"]
    with pytest.raises(InputError, match="distill: warmup_steps = 2000 but num_steps = 10"):
        read_settings(write(tmp_path, MINIMAL), given)


def test_every_setting_is_explained():
    for name, group in AllSettings.model_fields.items():
        assert group.description or hasattr(group.annotation, "model_fields"), name
        for key, field in getattr(group.annotation, "model_fields", {}).items():
            assert field.description, f"{name}.{key}"


def test_the_reference_lists_the_settings_as_they_are():
    text = (ROOT / "docs" / "reference" / "settings.md").read_text()
    assert updated(text) == text, "run `make readme`"


def test_the_form_of_the_prefect_ui_has_names_bounds_and_descriptions():
    schema = Settings.model_json_schema()
    rate = schema["$defs"]["Tune"]["properties"]["learning_rate"]
    assert rate["exclusiveMinimum"] == 0
    assert rate["description"]
    assert schema["$defs"]["PlanSettings"]["additionalProperties"] is False


def test_an_empty_change_takes_a_setting_back_to_its_default(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('model = {name = "m"}\ntask = {name = "t"}\nplan = {num_kept = 4}\ntune = {num_epochs = 3}\n')
    changed = read_settings(path, ["tune.num_epochs=", "tune.num_steps=4"])
    assert (changed.tune.num_epochs, changed.tune.num_steps) == (None, 4)


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not valid TOML"):
        read_settings(path)


READERS = """
import sys
from pathlib import Path
from flows.settings.reading import read_settings, read_sweep
from flows.studies.cells import read_study
read_settings(Path("{demo}/settings.toml"))
read_sweep(Path("demo.toml"))
read_study(Path("{demo}/study.toml"))
print(sorted({{"prefect", "mlflow", "torch"}} & set(sys.modules)))
"""


def test_reading_imports_nothing_that_looks_at_the_environment_of_home():
    """Prefect takes its settings when it is imported, and which home they are about is in the file."""
    done = subprocess.run(
        [sys.executable, "-c", READERS.format(demo=DEMO)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.stdout == "[]\n", done.stderr


def test_folders_of_held_out_tasks_are_found_beside_the_file_and_travel_as_absolute(tmp_path, monkeypatch):
    (tmp_path / "beside/texts").mkdir(parents=True)
    file = tmp_path / "beside/owner.toml"
    file.write_text(
        'model = {name = "m"}\ntask = {name = "t"}\nplan = {num_kept = 4}\n'
        '[[exchange.held_out]]\nname = "a"\ndata = "texts"\n[[exchange.held_out]]\nname = "piqa"\n'
    )
    monkeypatch.chdir(tmp_path)
    settings = read_settings(file, [], EmulateSettings)
    assert [task.data for task in settings.held_out] == [str(tmp_path / "beside/texts"), None]
    monkeypatch.chdir(tmp_path / "beside")
    given = portable(read_settings(file, [], EmulateSettings))
    assert given["exchange"]["held_out"] == [{"name": "a", "data": str(tmp_path / "beside/texts")}, {"name": "piqa"}]
