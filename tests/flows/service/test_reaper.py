"""Who gives no sign of life is gone; who gives one, whatever its clock says, is not."""

import ast
from pathlib import Path
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

import flows
from flows.service.reaper import OWN_FLOWS, PENDING_SECONDS, POLL_SECONDS, SETTLE_SECONDS, STALE_SECONDS, Watch


def test_every_flow_is_watched():
    """Runs that were started by hand belong to no pool: the reaper finds them by the name of their flow."""
    names = set()
    for path in Path(flows.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "flow":
                names |= {keyword.value.value for keyword in node.keywords if keyword.arg == "name"}
    assert names >= {"crash", "search", "study", "sweep"}
    assert set(OWN_FLOWS) == names


def test_silence_for_too_long_is_death():
    watch, run, beat = Watch(), uuid4(), uuid4()
    assert watch.observe(0, {run: {beat}}, {run: True}) == []
    assert watch.observe(STALE_SECONDS, {run: {beat}}, {run: True}) == []
    assert watch.observe(STALE_SECONDS + 1, {run: {beat}}, {run: True}) == [run]


def test_the_bound_of_two_minutes_is_kept():
    """Seen at the latest: the last heartbeat was noticed a look late, and the silence is noticed a look late."""
    assert STALE_SECONDS + 2 * POLL_SECONDS < 120
    assert STALE_SECONDS > 2 * 30


def test_a_sign_that_leaves_the_page_is_no_new_one():
    watch, run = Watch(), uuid4()
    watch.observe(0, {run: {uuid4()}}, {run: True})
    assert watch.observe(STALE_SECONDS + 1, {}, {run: True}) == [run]


def test_a_run_that_is_about_to_start_has_more_time():
    watch, run = Watch(), uuid4()
    watch.observe(0, {}, {run: False})
    assert watch.observe(PENDING_SECONDS - 1, {}, {run: False}) == []
    assert watch.observe(PENDING_SECONDS + 1, {}, {run: False}) == [run]


def test_after_an_outage_everybody_counts_as_alive():
    watch, run, beat = Watch(), uuid4(), uuid4()
    watch.observe(0, {run: {beat}}, {run: True})
    watch.forget()
    assert watch.observe(1000, {run: {beat}}, {run: True}) == []
    assert watch.observe(1000 + STALE_SECONDS + 1, {run: {beat}}, {run: True}) == [run]


@given(st.lists(st.floats(1, 60), min_size=1, max_size=50))
def test_a_run_with_a_heartbeat_in_time_is_never_taken_for_dead(pauses):
    watch, run, now = Watch(), uuid4(), 0.0
    for pause in pauses:
        now += pause
        assert watch.observe(now, {run: {uuid4()}}, {run: True}) == []


def test_a_crash_is_left_alone_until_its_worker_has_cleared_up():
    watch, crash, other = Watch(), uuid4(), uuid4()
    assert watch.settled(0, [crash]) == set()
    assert watch.settled(SETTLE_SECONDS - 1, [crash, other]) == set()
    assert watch.settled(SETTLE_SECONDS, [crash, other]) == {crash}
    assert watch.settled(SETTLE_SECONDS + 1, [other]) == set(), "a run that crashes again has another crash"
