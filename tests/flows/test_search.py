"""The real command: a search within a limit, found again when run again, and refused before anything is computed."""

import json
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from flows.settings.kinds import SearchSettings
from flows.settings.reading import read_settings
from tests.flows.commands import DEMO, artifacts, crash, small_settings, stages

pytestmark = [pytest.mark.usefixtures("one_prefect")]
SEARCH = """
[search]
max_disclosed = 0.6
strategy = ["uniform", "crash"]
num_kept = [4, 8]
num_tuned = [2]
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two plans within the limit and two beyond it."""
    path = small_settings(tmp_path_factory.mktemp("search"))
    path.write_text(path.read_text() + SEARCH)
    return path


def result(settings: Path) -> Path:
    folders = (settings.parent / "home/store/artifacts/frontier").iterdir()
    return max(folders, key=lambda path: path.stat().st_mtime)


@pytest.mark.nightly
def test_a_search_by_estimate_goes_on_as_a_measured_one_and_is_found_again(settings):
    store = settings.parent / "home/store"
    first = crash("search", str(settings), "--set", "search.by=estimated", "--set", "search.num_measured=1")
    assert first.returncode == 0, first.stdout + first.stderr
    made = stages(set(artifacts(store)))
    assert (made["proxies"], made["tune"], made["plug_in"], made["validate"]) == (2, 1, 1, 3)
    assert "evaluate" not in made, "the scored split is never read"
    estimated = json.loads((result(settings) / "search.json").read_text())["rows"]
    assert [row["gain"] is None for row in estimated] == [False, True, True, True]

    second = crash("search", str(settings))
    assert second.returncode == 0, second.stdout + second.stderr
    kept = artifacts(store)
    made = stages(set(kept))
    assert (made["proxies"], made["tune"], made["plug_in"], made["validate"]) == (2, 2, 2, 5)
    content = json.loads((result(settings) / "search.json").read_text())
    measured = [row for row in content["rows"] if row["gain"] is not None]
    assert len(measured) == 2
    assert content["best"] == min(measured, key=lambda row: row["plug_in_loss"])["name"]
    assert "Best plan" in second.stdout
    assert "uniform 8/2 none: discloses 67.9% of the parameters" in second.stdout
    best = tomllib.loads((result(settings) / "best.toml").read_text())
    assert f"{best['strategy'][0]} {best['plan']['num_kept']}/{best['plan']['num_tuned']}" in content["best"]

    planned = crash("plan-cost", str(settings), "--json")
    assert planned.returncode == 0, planned.stderr
    assert {row["stage"]: row["count"] for row in json.loads(planned.stdout)["stages"]} == made - Counter(frontier=1)

    third = crash("search", str(settings))
    assert third.returncode == 0, third.stderr
    assert artifacts(store) == kept
    listed = crash("runs", "--home", str(settings.parent / "home")).stdout
    newest = next(line for line in listed.splitlines() if "search" in line)
    assert newest.split()[3] == "0", "nothing was computed the third time"


def test_a_limit_that_no_plan_meets_is_refused_before_anything_is_computed(settings, tmp_path):
    home = f"place.home={tmp_path / 'home'}"
    refused = crash("search", str(settings), "--set", "search.max_disclosed=0.3", "--set", home)
    assert refused.returncode == 2
    assert "the smallest, uniform 4/2 none, discloses 35.8%" in refused.stderr
    assert "a single block with embeddings and head 11.7%" in refused.stderr
    assert not list(tmp_path.glob("home/store/artifacts/capture/*"))


def test_a_plan_that_fails_leaves_the_others_intact(settings):
    """At this rate tuning diverges for every plan: each is named, and the command ends with the first one's error."""
    failed = crash("search", str(settings), "--set", "tune.learning_rate=1e30")
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert "no plan of the search could be measured; the first of 2, uniform 4/2 none" in failed.stderr
    assert "not finite" in failed.stderr


def test_the_demos_search_is_valid():
    search = read_settings(DEMO / "search.toml", kind=SearchSettings).search
    assert len(search.strategy) * len(search.num_kept) * len(search.num_tuned) * len(search.share) >= 10
