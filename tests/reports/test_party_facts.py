"""Comparisons of a party's scores, against cases by hand."""

import pytest

from tasks.reports.party_facts import capability_facts, gap_facts, worse_facts


def row(setting: str, value: float, stderr: float | None = 0.01, higher: bool = True) -> dict:
    return {
        "setting": setting,
        "metric": "acc" if higher else "perplexity",
        "value": value,
        "stderr": stderr,
        "higher_is_better": higher,
    }


def test_shares_of_held_out_tasks_are_apart() -> None:
    rows = [
        row("full_zero_shot", 0.5),
        row("full_zero_shot/texts", 6.0, higher=False),
        row("emulator_zero_shot", 0.4),
        row("emulator_zero_shot/texts", 8.0, higher=False),
    ]
    name = "emulator's share of the full model's score"
    assert capability_facts(rows) == ({f"{name} (CPL)": "80.0%"}, {f"{name} on texts (CPL)": "75.0%"})
    assert worse_facts(rows) == {}


def test_the_privacy_gap_is_what_plugging_in_adds() -> None:
    rows = [row("emulator_tuned", 0.5), row("plug_in", 0.75)]
    rows += [row("emulator_tuned/texts", 8.0, higher=False), row("plug_in/texts", 6.5, higher=False)]
    assert gap_facts(rows) == {"privacy gap (acc)": "+0.250", "privacy gap on texts (perplexity)": "+1.500"}


@pytest.mark.parametrize(
    ("before", "after", "stderr", "higher", "is_worse"),
    [
        (0.50, 0.45, 0.01, True, True),
        # Two standard errors of the difference are 0.028.
        (0.50, 0.48, 0.01, True, False),
        (0.50, 0.60, 0.01, True, False),
        (6.0, 6.1, None, False, True),
        (6.0, 5.9, None, False, False),
        (6.0, 6.1, 0.1, False, False),
    ],
)
def test_a_score_is_worse_by_more_than_its_noise(
    before: float, after: float, stderr: float | None, higher: bool, is_worse: bool
) -> None:
    settings = {"full_zero_shot/texts": before, "plug_in/texts": after}
    rows = [row(setting, value, stderr, higher) for setting, value in settings.items()]
    (said,) = worse_facts([*rows, row("full_zero_shot", 0.5), row("plug_in", 0.6)]).values()
    assert said.startswith("texts: ") if is_worse else said == "none"
