"""The answer of a person counts for the bundles that were shown, and a run that failed after it says what to do."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.exceptions import ObjectAlreadyExists

from flows.exchange import approval
from tasks.core.errors import EnvironmentFault


def answered(*digests: str) -> Any:
    """Answers as far as a person is asked about them."""
    manifest = SimpleNamespace(sender=SimpleNamespace(name="clinic"))
    return [SimpleNamespace(manifest=manifest, opened=SimpleNamespace(digest=digest)) for digest in digests]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The questions that Prefect was given; it answers at once."""
    found: list[dict[str, Any]] = []

    def suspend(wait_for_input: Any, **named: Any) -> Any:
        found.append({"form": wait_for_input, **named})
        return SimpleNamespace(decision="plug in" if len(found) % 2 else "decline")

    monkeypatch.setattr(approval, "suspend_flow_run", suspend)
    return found


def test_other_bundles_are_another_question(asked: list[dict[str, Any]]) -> None:
    given = [answered("a"), answered("a"), answered("b"), answered("a", "b")]
    assert [approval.decide(each, "| table |") for each in given] == [True, False, True, False]
    keys = [each["key"] for each in asked]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert {each["timeout"] for each in asked} == {timedelta(days=7).total_seconds()}
    assert "| table |" in asked[0]["form"]._description


def test_the_terminal_is_asked_within_its_context_alone(asked: list[dict[str, Any]]) -> None:
    with approval.asking(lambda answers, table: None):
        assert approval.decide(answered("a"), "") is None
    assert not asked
    assert approval.decide(answered("a"), "") is True


def test_a_run_that_was_answered_and_failed_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def conflict(**_: Any) -> None:
        raise ObjectAlreadyExists(http_exc=RuntimeError("409"))

    monkeypatch.setattr(approval, "suspend_flow_run", conflict)
    with pytest.raises(EnvironmentFault, match="run the deployment plug-in/run again"):
        approval.decide(answered("a"), "")
