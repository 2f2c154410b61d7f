"""Write generic text for distillation: `python -m flows.demo.texts --seed S --out FOLDER`.

The texts are newly drawn biographies of all people of the model's world, as in its pre-training. They contain none of
the words that mark a question.
"""

import argparse
import json
import random
from pathlib import Path

from flows.demo.world import biography, make_people

NUM_TRAIN, NUM_VALIDATION = 2000, 100


def texts(seed: int, split: str, count: int) -> list[str]:
    """Draw biographies of random people of the world with this seed, one text each."""
    people, numbers = make_people(seed), random.Random(f"texts {seed} {split}")
    return [" ".join(biography(numbers.choice(people), numbers)) for _ in range(count)]


def write_texts(folder: Path, seed: int, num_train: int = NUM_TRAIN, num_validation: int = NUM_VALIDATION) -> None:
    """Write `train.jsonl` and `validation.jsonl`, rows with a field `text`."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", num_train), ("validation", num_validation)):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts(seed, split, count))
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write biographies of one invented world as JSON lines.")
    parser.add_argument("--seed", type=int, required=True, help="seed of the world; the model's pre-training seed")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets train and validation.jsonl")
    arguments = parser.parse_args()
    write_texts(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
