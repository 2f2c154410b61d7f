"""Cut the rows, and the lengths of rows, out of larger slices of the public data sets.

`python -m tests.make_data.cut FOLDER` reads FOLDER/<task>/<split>.jsonl, in the form of the data sets' hub versions.
"""

import json
import sys
from itertools import islice
from pathlib import Path

from tests.make_data.folder import DATA, write_lines
from tests.make_data.lengths import FORMS

NUM_ROWS = {
    "arc_easy": {"train": 12, "validation": 12, "test": 12},
    "arc_challenge": {"train": 12, "validation": 12, "test": 12},
    # 5% of train validate, and a test wants twelve such rows.
    "piqa": {"train": 240, "validation": 12},
    # 5% of train validate, and at least four rows do.
    "hellaswag": {"train": 80, "validation": 12},
    "webqs": {"train": 12, "validation": 12, "test": 12},
}
# Short articles, by their places in the files.
ARTICLES = {"train": (3, 14), "validation": (2,), "test": (0,)}
# Rows of which the lengths are kept: 128 train and 128 are scored; of ARC-Easy what a sample of a hundred is compared
# with. Where validation is scored, the first 5% of train validate, here seven rows.
NUM_LENGTHS = {"train": 128, "validation": 8, "test": 128}
NUM_ARC_EASY_LENGTHS = {"train": 300, "validation": 8, "test": 200}
NUM_LENGTHS_HELD_OUT = 7
SCORES_VALIDATION = ("piqa", "hellaswag")


def cut_rows(source: Path, name: str) -> None:
    """Copy the first rows of each split, of HellaSwag those from ActivityNet: WikiHow's text has its own licence."""
    for split, count in NUM_ROWS[name].items():
        lines = (source / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        usable = (line for line in lines if name != "hellaswag" or '"activitynet~' in line)
        write_lines(DATA / "tasks" / name / f"{split}.jsonl", islice(usable, count))


def cut_articles(source: Path) -> None:
    """Copy some articles of WikiText, as one row each and as a row a line."""
    for split, places in ARTICLES.items():
        lines = (source / "wikitext" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        chosen = [lines[place] for place in places]
        write_lines(DATA / "tasks" / "wikitext" / f"{split}.jsonl", chosen)
        text = "".join(json.loads(line)["page"] for line in chosen)
        rows = [{"text": line + "\n" if line.strip() else ""} for line in text.splitlines()]
        write_lines(
            DATA / "text" / "wikitext" / f"{split}.jsonl", (json.dumps(row, ensure_ascii=False) for row in rows)
        )


def cut_lengths(source: Path, name: str) -> None:
    """Write the lengths of the rows that the first ones of the larger slice train, validate and score with."""
    measured = FORMS[name].lengths
    rows = {
        path.stem: [measured(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (source / name).glob("*.jsonl")
    }
    if name in SCORES_VALIDATION:
        held_out = round(0.05 * len(rows["train"]))
        start, end = held_out - NUM_LENGTHS_HELD_OUT, held_out + NUM_LENGTHS["train"]
        found = {"train": rows["train"][start:end], "validation": rows["validation"][: NUM_LENGTHS["test"]]}
    else:
        counts = NUM_ARC_EASY_LENGTHS if name == "arc_easy" else NUM_LENGTHS
        found = {split: rows[split][:count] for split, count in counts.items()}
    text = json.dumps(found, separators=(",", ":")).replace("],[", "],\n[")
    write_lines(DATA / "lengths" / f"{name}.json", [text])


def main(folder: str) -> None:
    """Write all that is cut."""
    for name in NUM_ROWS:
        cut_rows(Path(folder), name)
    cut_articles(Path(folder))
    for name in FORMS:
        cut_lengths(Path(folder), name)


if __name__ == "__main__":
    main(*sys.argv[1:])
