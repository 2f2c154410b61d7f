"""Which strategies of some settings are rows of the papers' tables: each by its own way of sharing."""

from typing import Any

import pytest

from flows.published_as import published_as
from flows.settings import Settings


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        ("auto", {"uniform": "uniform", "uniform_spread": "uniform_spread", "crash": "crash"}),
        ("none", {"uniform": "uniform", "uniform_spread": "uniform_spread", "crash": "crash without sharing"}),
        ("all", {"crash": "crash"}),
        (
            {"crash": "none"},
            {"uniform": "uniform", "uniform_spread": "uniform_spread", "crash": "crash without sharing"},
        ),
        ({"crash": "frozen_only", "uniform": "all"}, {"uniform_spread": "uniform_spread"}),
    ],
)
def test_each_strategy_by_its_own_sharing(share: Any, expected: dict[str, str]) -> None:
    settings = {"model": {"name": "m"}, "task": {"name": "t"}, "plan": {"num_kept": 6, "share": share}}
    settings["strategy"] = ["uniform", "uniform_spread", "crash"]
    assert published_as(Settings.model_validate(settings)) == expected
