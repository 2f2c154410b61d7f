"""Published results, to compare with our results for the same model, task, budget and strategy.

Sources: CRaSh (EMNLP 2023, arXiv 2310.15477), table 1: OPT-1.3B, 12 of 24 blocks kept, 4 tuned, accuracy in percent;
Offsite-Tuning (arXiv 2302.04870): the same model, perplexity on WikiText.
"""

import math
from dataclasses import dataclass
from pathlib import PurePath

TASKS = ("openbookqa", "arc_easy", "arc_challenge", "webqs", "piqa", "sciq", "race", "hellaswag")
# Standard error of one run in percent points, in the order of TASKS.
ERRORS = (2.0, 1.0, 1.3, 1.0, 1.0, 1.0, 1.5, 0.5)
BUDGET = (24, 12, 4)
CRASH, OFT = "CRaSh, table 1", "Offsite-Tuning"

# (strategy, setting): accuracy in percent, in the order of TASKS. The paper's zero-shot results of its emulator are
# left out: three of them equal those of the full model.
TABLE_1 = {
    ("full", "full_zero_shot"): (23.4, 56.9, 23.5, 4.6, 71.6, 84.4, 34.2, 41.5),
    ("full", "full_fine_tuned"): (31.4, 61.3, 27.7, 31.2, 75.2, 92.5, 37.0, 42.7),
    ("distilled", "plug_in"): (29.0, 59.4, 27.8, 26.2, 74.5, 92.9, 38.9, 43.3),
    ("uniform", "emulator_fine_tuned"): (24.6, 50.4, 21.2, 21.8, 69.3, 89.4, 36.5, 32.7),
    ("uniform", "plug_in"): (26.4, 58.3, 23.0, 21.4, 72.7, 90.8, 37.9, 41.2),
    ("uniform_spread", "plug_in"): (27.6, 58.8, 24.8, 16.4, 72.6, 92.1, 39.7, 41.2),
    ("crash", "emulator_fine_tuned"): (25.0, 50.0, 21.5, 21.8, 68.9, 88.9, 38.9, 33.6),
    ("crash", "plug_in"): (30.2, 60.0, 24.8, 23.7, 73.2, 93.1, 39.9, 41.9),
    ("crash without sharing", "plug_in"): (25.2, 57.7, 24.6, 17.7, 71.7, 92.2, 39.1, 41.3),
}
WIKITEXT = {
    ("full", "full_zero_shot"): 31.48,
    ("full", "full_fine_tuned"): 12.52,
    ("distilled", "emulator_zero_shot"): 38.55,
    ("distilled", "emulator_fine_tuned"): 15.54,
    ("distilled", "plug_in"): 13.15,
}


@dataclass(frozen=True)
class PaperResult:
    """Published value in the metric's unit, its standard error of one run where it is known, and its source."""

    published: float
    published_stderr: float | None
    source: str

    def distance(self, value: float, stderr: float | None) -> float | None:
        """Return by how many standard errors of the difference our value is higher; None when neither has one."""
        error = math.hypot(stderr or 0.0, self.published_stderr or 0.0)
        return (value - self.published) / error if error else None


def published(
    model: str, task: str, metric: str, budget: tuple[int, int, int], strategy: str, setting: str
) -> PaperResult | None:
    """Find the published result, or return None.

    model: folder or hub id; budget: (blocks, kept, tuned); strategy: as in TABLE_1 ("full" matches any budget).
    """
    if PurePath(model).name.lower() != "opt-1.3b" or (strategy != "full" and budget != BUDGET):
        return None
    if task in TASKS and metric in ("acc", "exact_match") and (strategy, setting) in TABLE_1:
        place = TASKS.index(task)
        return PaperResult(TABLE_1[strategy, setting][place] / 100, ERRORS[place] / 100, CRASH)
    if task == "wikitext" and metric == "word_perplexity" and (strategy, setting) in WIKITEXT:
        return PaperResult(WIKITEXT[strategy, setting], None, OFT)
    return None
