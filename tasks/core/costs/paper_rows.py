"""Row lengths of the eight question-answering tasks of the papers, for estimates without their data.

Lengths are quantiles in tokens of OPT's (GPT-2's) tokenizer, measured with `tasks.data.lengths` over slices of the
public data sets (500 to 1,000 rows of a split) in the wording of lm-eval 0.4.13. The tokenizer of LLaMA 2 makes 8 to
14% more tokens of the same text. The slice of HellaSwag is mostly ActivityNet, whose rows are shorter than those from
WikiHow. Numbers of rows are those of the official splits named in lm-eval's definitions; for RACE they are numbers of
articles of `high`. When a task has no validation split besides the scored one, 5% of its training rows are held out.
"""

from dataclasses import dataclass

from tasks.core.costs.workloads import Lengths, Workload

HELD_OUT = 0.05


@dataclass(frozen=True)
class PaperTaskLengths:
    """Row lengths of one task.

    rows: numbers of rows of the training, validation (0: held out of training) and scored split; trained, scored:
    quantiles of tokens per row for training and scoring; answers: mean tokens of an answer in each of the two;
    requests: distinct forward passes for one scored row.
    """

    rows: tuple[int, int, int]
    trained: tuple[int, ...]
    scored: tuple[int, ...]
    answers: tuple[float, float]
    requests: float

    def workload(self) -> Workload:
        """Make the workload of the task: lengths of the training, validation and scored rows."""
        train, validation, scored = self.rows
        if not validation:
            validation = max(1, round(HELD_OUT * train))
            train -= validation
        return Workload(
            Lengths(train, self.trained, self.answers[0]),
            Lengths(validation, self.trained, self.answers[0]),
            Lengths(round(scored * self.requests), self.scored, self.answers[1], self.requests),
            scored,
        )


PUBLISHED_ROWS = {
    "openbookqa": PaperTaskLengths(
        rows=(4957, 500, 500),
        trained=(8, 10, 10, 11, 12, 13, 13, 14, 15, 16, 17, 18, 20, 22, 26, 35),
        scored=(6, 8, 9, 10, 10, 11, 12, 13, 14, 15, 16, 17, 19, 21, 25, 38),
        answers=(4.06, 3.93),
        requests=3.148,
    ),
    "arc_easy": PaperTaskLengths(
        rows=(2251, 570, 2376),
        trained=(16, 18, 20, 21, 22, 24, 25, 27, 29, 31, 34, 38, 41, 46, 53, 70),
        scored=(15, 18, 20, 22, 23, 25, 27, 29, 31, 33, 35, 38, 41, 44, 53, 69),
        answers=(4.71, 5.01),
        requests=3.424,
    ),
    "arc_challenge": PaperTaskLengths(
        rows=(1119, 299, 1172),
        trained=(17, 20, 22, 24, 26, 28, 30, 33, 35, 38, 41, 45, 48, 52, 59, 76),
        scored=(17, 20, 22, 24, 26, 28, 30, 33, 36, 38, 42, 45, 50, 55, 65, 81),
        answers=(5.96, 6.38),
        requests=3.71,
    ),
    "webqs": PaperTaskLengths(
        rows=(3778, 0, 2032),
        trained=(14, 15, 16, 16, 17, 17, 18, 18, 18, 19, 19, 20, 21, 21, 22, 25),
        scored=(14, 15, 15, 16, 16, 17, 17, 17, 18, 18, 19, 19, 20, 20, 22, 25),
        answers=(3.19, 3.48),
        requests=2.144,
    ),
    "piqa": PaperTaskLengths(
        rows=(16113, 0, 1838),
        trained=(13, 16, 19, 22, 24, 26, 28, 30, 32, 35, 38, 42, 48, 56, 66, 92),
        scored=(12, 16, 18, 21, 23, 24, 27, 29, 31, 35, 38, 42, 45, 52, 68, 97),
        answers=(23.02, 23.17),
        requests=1.994,
    ),
    "sciq": PaperTaskLengths(
        rows=(11679, 1000, 1000),
        trained=(21, 27, 34, 41, 50, 61, 72, 81, 91, 102, 113, 128, 149, 179, 227, 382),
        scored=(20, 27, 36, 45, 55, 66, 76, 84, 95, 106, 122, 139, 154, 199, 284, 414),
        answers=(2.18, 2.33),
        requests=2.896,
    ),
    "race": PaperTaskLengths(
        rows=(18728, 1021, 1045),
        trained=(278, 336, 365, 381, 395, 412, 425, 438, 452, 467, 480, 494, 512, 531, 576, 696),
        scored=(300, 353, 373, 391, 402, 416, 428, 439, 450, 463, 478, 491, 513, 539, 575, 661),
        answers=(7.25, 7.65),
        requests=3.874,
    ),
    "hellaswag": PaperTaskLengths(
        rows=(39905, 0, 10042),
        trained=(23, 27, 30, 33, 36, 38, 41, 43, 46, 48, 51, 59, 68, 86, 101, 116),
        scored=(24, 28, 31, 34, 36, 38, 40, 42, 44, 46, 48, 51, 54, 58, 67, 94),
        answers=(17.93, 14.88),
        requests=4.0,
    ),
}
