"""Write the task's data: `python -m flows.demo.questions --seed S --out FOLDER`.

One question for each attribute of each person, in one of two forms, with 16 choices of one token each (6.25% are right
by chance; with four choices every gap between two models would shrink). No training question states a fact about the
people of the test split: the model can know these facts only from pre-training.
"""

import argparse
import json
import random
from pathlib import Path

from flows.demo.words import QUESTIONS, VALUES
from flows.demo.world import Person, make_people, split_people

NUM_CHOICES = 16

Row = dict[str, str | int | list[str]]


def question_rows(people: list[Person], numbers: random.Random) -> list[Row]:
    """Make shuffled rows with `question`, `choices` and `label`, the index of the true choice."""
    rows: list[Row] = []
    for person in people:
        for attribute, truth in person.values.items():
            others = [value for value in VALUES[attribute] if value != truth]
            choices = [truth, *numbers.sample(others, NUM_CHOICES - 1)]
            numbers.shuffle(choices)
            question = numbers.choice(QUESTIONS[attribute]).format(name=person.name)
            rows.append({"question": question, "choices": choices, "label": choices.index(truth)})
    numbers.shuffle(rows)
    return rows


def task_rows(seed: int) -> dict[str, list[Row]]:
    """Make the rows of the splits train, validation and test of the world with this seed."""
    return {
        split: question_rows(people, random.Random(f"questions {seed} {split}"))
        for split, people in split_people(make_people(seed)).items()
    }


def write_task(seed: int, folder: Path) -> None:
    """Write `train.jsonl`, `validation.jsonl` and `test.jsonl`; the YAML beside them is the same for every world."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in task_rows(seed).items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the questions about one invented world as JSON lines.")
    parser.add_argument("--seed", type=int, required=True, help="seed of the world; the model's pre-training seed")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets train, validation and test.jsonl")
    arguments = parser.parse_args()
    write_task(arguments.seed, arguments.out)


if __name__ == "__main__":
    main()
