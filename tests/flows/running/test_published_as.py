"""Which strategies of some settings are rows of the papers' tables: each by its own way of sharing."""

from typing import Any

import pytest

from flows.running.published_as import published_as
from flows.settings.run import Settings


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        ("auto", {"uniform": "uniform", "uniform_spread": "uniform_spread", "crash": "crash without sharing"}),
        ({"crash": "all"}, {"uniform": "uniform", "uniform_spread": "uniform_spread", "crash": "crash"}),
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
    assert known(plan={"num_kept": 6, "share": share}) == {"full": "full", **expected}


def known(**changes: Any) -> dict[str, str]:
    settings = {"model": {"name": "m"}, "task": {"name": "t"}, "plan": {"num_kept": 6}, **changes}
    settings["strategy"] = ["uniform", "uniform_spread", "crash"]
    return published_as(Settings.model_validate(settings))


DISTILLED = {"enabled": True, "data": "text", "num_steps": 9, "warmup_steps": 1}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"task": {"name": "t", "num_test": 64}}, set()),
        ({"task": {"name": "t", "num_train": 64}}, set()),
        ({"evaluate": {"num_fewshot": 5}}, set()),
        ({"task": {"name": "t", "template": "chat"}}, set()),
        ({"tune": {"lm_head": True}}, {"full"}),
        ({"tune": {"freeze_bottom": True}}, {"full"}),
        ({"tune": {"method": "lora"}}, {"full"}),
        ({"support": {"pooling": "last"}}, {"full", "uniform", "uniform_spread"}),
        ({"support": {"split": "train", "max_tokens": 64}}, {"full", "uniform", "uniform_spread", "crash"}),
        ({"similarity": {"estimator": "debiased_cka"}}, {"full", "uniform", "uniform_spread"}),
        ({"distill": DISTILLED}, {"full", "uniform"}),
        ({"distill": DISTILLED | {"teacher": "other"}}, {"full"}),
        ({"compress": {"method": "prune", "ratio": 0.5}}, {"full"}),
    ],
)
def test_what_was_done_otherwise_is_not_compared(changes: dict[str, Any], expected: set[str]) -> None:
    assert set(known(**changes)) == expected
