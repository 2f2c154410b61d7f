"""Published numbers are found where everything is the same, and nowhere else; the table's means are the paper's."""

import pytest

from tasks.core.evaluation.paper_results import BUDGET, TABLE_1, PaperResult, published

# The column "mean" of the paper's table, which the cells have to give.
MEANS = {
    ("full", "full_zero_shot"): 42.5,
    ("full", "full_fine_tuned"): 49.9,
    ("distilled", "plug_in"): 49.0,
    ("uniform", "emulator_fine_tuned"): 43.2,
    ("uniform", "plug_in"): 46.5,
    ("uniform_spread", "plug_in"): 46.7,
    ("crash", "emulator_fine_tuned"): 43.6,
    ("crash", "plug_in"): 48.4,
    ("crash without sharing", "plug_in"): 46.2,
}


@pytest.mark.parametrize("row", list(TABLE_1))
def test_the_cells_give_the_papers_means(row):
    assert sum(TABLE_1[row]) / 8 == pytest.approx(MEANS[row], abs=0.06)


def test_only_the_same_is_compared():
    found = published("facebook/opt-1.3b", "piqa", "acc", BUDGET, "crash", "plug_in")
    assert found is not None
    assert (found.published, found.published_stderr) == pytest.approx((0.732, 0.01))
    assert found.distance(0.752, None) == pytest.approx(2)
    assert found.distance(0.732 - 0.05, 0.0075**0.5 / 5) == pytest.approx(-2.5)
    assert published("/models/OPT-1.3B", "piqa", "acc", BUDGET, "crash", "plug_in") == found
    assert published("facebook/opt-6.7b", "piqa", "acc", BUDGET, "crash", "plug_in") is None
    assert published("facebook/opt-1.3b", "piqa", "acc", (24, 10, 4), "crash", "plug_in") is None
    assert published("facebook/opt-1.3b", "piqa", "acc_norm", BUDGET, "crash", "plug_in") is None
    assert published("facebook/opt-1.3b", "boolq", "acc", BUDGET, "crash", "plug_in") is None
    assert published("facebook/opt-1.3b", "piqa", "acc", BUDGET, "crash", "emulator_zero_shot") is None
    assert published("facebook/opt-1.3b", "piqa", "acc", (24, 24, 24), "full", "full_zero_shot") is not None
    wikitext = published("facebook/opt-1.3b", "wikitext", "word_perplexity", BUDGET, "distilled", "plug_in")
    assert wikitext == PaperResult(13.15, None, "Offsite-Tuning")
    assert wikitext.distance(13.0, None) is None
