"""The arguments of the stages that train: made from the tables, and refused under the names of the tables."""

from typing import Any

import pytest

from flows.running.arguments import Arguments
from flows.settings.kinds import SearchSettings
from flows.settings.run import Settings
from tasks.core.errors import InputError
from tasks.core.tuning.settings import TrainSettings

BASE = {"model": {"name": "m"}, "task": {"name": "t"}, "plan": {"num_kept": 4}}


def settings(**tables: Any) -> Settings:
    return Settings.model_validate(BASE | tables)


def changed(table: str, **values: Any) -> Arguments:
    """Arguments of settings that no table has checked, as from Python."""
    valid = settings(distill={"enabled": True, "data": "d", "num_steps": 3000})
    update = {table: getattr(valid, table).model_copy(update=values)}
    return Arguments(valid.model_copy(update=update), "float32")


def test_a_tuning_takes_its_table_and_five_epochs_by_default() -> None:
    arguments = Arguments(settings(tune={"batch_size": 4, "seeds": [7]}, full_tune={"learning_rate": 1e-3}), "float32")
    assert arguments.tune(7) == {
        "settings": TrainSettings(2e-5, num_epochs=5, batch_size=4, seed=7),
        "precision": "float32",
    }
    assert arguments.full_tune(7)["settings"] == TrainSettings(1e-3, num_epochs=5, batch_size=4, seed=7)


def test_several_rates_may_diverge() -> None:
    arguments = Arguments(settings(tune={"eval_steps": 5, "learning_rates": [1e-4, 1e-3]}), "float32")
    assert [arguments.tune(0, rate)["settings"].learning_rate for rate in arguments.rates] == [1e-4, 1e-3]
    assert arguments.tune(0)["settings"].may_diverge


def test_a_distillation_takes_its_table() -> None:
    given = {"enabled": True, "data": "d", "num_steps": 3000, "block": 64, "seed": 3}
    assert Arguments(settings(distill=given), "float32").distill == {
        "settings": TrainSettings(1e-4, num_steps=3000, warmup_steps=2000, seed=3),
        "block": 64,
        "hidden_weight": 30.0,
        "precision": "float32",
    }


@pytest.mark.parametrize(
    ("message", "use"),
    [
        ("tune.learning_rate = -1.0; it must be larger than 0", lambda: changed("tune", learning_rate=-1.0).tune(0)),
        ("tune.batch_size = 0; it must", lambda: changed("tune", batch_size=0).full_tune(0)),
        ("full_tune.learning_rate = -1.0; it", lambda: changed("full_tune", learning_rate=-1.0).full_tune(0)),
        (
            "distill.warmup_steps = 5 but distill.num_steps = 5",
            lambda: changed("distill", num_steps=5, warmup_steps=5).distill,
        ),
        ("learning_rate = -1.0; it must be larger than 0", lambda: TrainSettings(-1.0, num_steps=1)),
    ],
)
def test_a_refusal_names_the_setting_where_it_was_written(message: str, use: Any) -> None:
    with pytest.raises(InputError) as caught:
        use()
    assert str(caught.value).startswith(message)


def test_the_plans_of_a_search_share_the_errors_of_its_smallest_budget() -> None:
    given = {**BASE, "plan": {"num_kept": 9}, "search": {"num_kept": [8, 6]}}
    searched = SearchSettings.model_validate(given)
    assert Arguments(searched, "float32").stand_in_errors(12)["longest"] == 6
    assert Arguments(settings(plan={"num_kept": 9}), "float32").stand_in_errors(12)["longest"] == 3
