"""Choices of settings whose core needs torch or numpy, which settings load without: the same words in both places."""

from typing import Any, get_args

import pytest

from flows.settings.kinds import AllSettings
from tasks.core.cka import ESTIMATORS
from tasks.core.clustering import LINKAGES
from tasks.core.pooling import POOLINGS
from tasks.core.study.interpolation import AXES
from tasks.data.tokenize import PARTS


@pytest.mark.parametrize(
    ("table", "key", "choices"),
    [
        ("support", "pooling", POOLINGS),
        ("support", "part", PARTS),
        ("similarity", "estimator", ESTIMATORS),
        ("plan", "linkage", LINKAGES),
        ("study", "axes", AXES),
    ],
)
def test_the_choices_are_those_of_the_core(table: str, key: str, choices: Any) -> None:
    group: Any = AllSettings.model_fields[table].annotation
    assert set(get_args(group.model_fields[key].annotation)) == set(choices)
