"""Published numbers: found for the same model, task and method alone, and equal to the means that were published."""

import statistics

import pytest

from tasks.store.published_numbers import TABLE_1, TASKS, PublishedNumber, in_standard_errors, published

CRASH = {
    "num_blocks": 24,
    "num_kept": 12,
    "num_tuned": 4,
    "share": "all",
    "linkage": "boundary",
    "emulator": ["emulate"],
}
UNIFORM = {**CRASH, "share": "none", "linkage": None}
# The last column of the table.
MEANS = {
    ("full", "full_zero_shot"): 42.5,
    ("full", "full_fine_tuned"): 49.9,
    ("distilled", "plug_in"): 49.0,
    ("uniform", "emulator_fine_tuned"): 43.2,
    ("uniform", "plug_in"): 46.5,
    ("uniform_spread", "plug_in"): 46.7,
    ("crash", "emulator_fine_tuned"): 43.6,
    ("crash", "plug_in"): 48.4,
    ("crash_alone", "plug_in"): 46.2,
}


@pytest.mark.parametrize("row", TABLE_1)
def test_the_numbers_have_the_published_mean(row):
    assert len(TABLE_1[row]) == len(TASKS)
    assert statistics.mean(TABLE_1[row]) == pytest.approx(MEANS[row], abs=0.051)


@pytest.mark.parametrize("model", ["facebook/opt-1.3b", "opt-1.3b", "/models/OPT-1.3B/"])
def test_the_model_is_known_by_its_name(model):
    found = published(model, "arc_easy", "acc", "crash", "plug_in", CRASH)
    assert found
    assert (found.value, found.stderr) == pytest.approx((0.600, 0.010))
    assert "2310.15477" in found.source


@pytest.mark.parametrize(
    ("strategy", "method", "value"),
    [
        ("crash", CRASH | {"share": "none"}, 0.577),
        ("uniform", UNIFORM, 0.583),
        ("uniform_spread", UNIFORM, 0.588),
        ("uniform", UNIFORM | {"emulator": ["distill", "emulate"]}, 0.594),
        ("crash", CRASH | {"share": "frozen_only"}, None),
        ("crash", CRASH | {"linkage": "optimal"}, None),
        ("crash", CRASH | {"num_kept": 10}, None),
        ("crash", CRASH | {"tuning": "lora"}, None),
        ("crash", CRASH | {"emulator": ["compress", "emulate"]}, None),
        ("random", UNIFORM, None),
    ],
)
def test_only_the_same_method_is_compared(strategy, method, value):
    found = published("opt-1.3b", "arc_easy", "acc", strategy, "plug_in", method)
    assert (found and found.value) == (value and pytest.approx(value))


def test_other_models_tasks_and_metrics_have_no_number():
    assert published("opt-6.7b", "arc_easy", "acc", "crash", "plug_in", CRASH) is None
    assert published("opt-1.3b", "boolq", "acc", "crash", "plug_in", CRASH) is None
    assert published("opt-1.3b", "arc_easy", "acc_norm", "crash", "plug_in", CRASH) is None
    assert published("opt-1.3b", "arc_easy", "acc", "crash", "gain", CRASH) is None


def test_perplexities():
    found = published("opt-1.3b", "wikitext", "word_perplexity", "full", "full_zero_shot", {})
    assert found == PublishedNumber(31.48, None, "Offsite-Tuning (arXiv 2302.04870), WikiText")
    assert published("opt-1.3b", "wikitext", "word_perplexity", "crash", "plug_in", CRASH) is None


def test_differences_in_standard_errors():
    theirs = PublishedNumber(0.6, 0.03, "")
    assert in_standard_errors(0.65, 0.04, theirs) == pytest.approx(1.0)
    assert in_standard_errors(0.57, None, theirs) == pytest.approx(-1.0)
    assert in_standard_errors(13.0, None, PublishedNumber(13.15, None, "")) is None
