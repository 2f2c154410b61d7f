"""Write the made-up rows of OpenBookQA, SciQ and RACE: their form, none of their text.

`python -m tests.make_data.made_up_rows` writes them below tests/data/tasks, the same ones each time.
"""

import json
import random
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

from tests.make_data.folder import DATA, write_lines

Row = dict[str, Any]
NUM_ROWS = {"train": 12, "validation": 12, "test": 12}
# An article is two kilobytes long, and no test reads more than four rows of these splits.
NUM_ARTICLES = {"train": 12, "validation": 4, "test": 4}
LETTERS = ("A", "B", "C", "D")

THINGS = ("A metal spoon", "A wet towel", "An ice cube", "A green plant", "A paper boat", "A candle", "A rubber ball")
# Beginning of a sentence about a thing, its right end, and three wrong ones.
EVENTS = (
    ("that lies in the sun all day", ("becomes warmer", "becomes a cloud", "learns to swim and to dive", "sings")),
    ("that falls from a table", ("moves down", "moves up to the ceiling", "stays where it is", "falls asleep")),
    ("in a dark room", ("cannot be seen", "shines as bright as the moon", "grows wings", "is louder than outside")),
    ("at the bottom of a lake is", ("wet", "dry", "as far away as a star", "older than all the water above it")),
    ("on the moon would weigh", ("less", "more", "more than the moon and the earth together", "a different colour")),
    ("that is cut in two equal parts is then", ("two halves", "one whole", "three thirds of a cake", "nowhere at all")),
)

# A term, and what follows "the part that" or "the tool that".
PARTS = (
    ("heart", "pumps blood through the body"),
    ("lung", "takes oxygen from the air"),
    ("root", "draws water from the soil"),
    ("leaf", "catches the light of the sun"),
    ("thermometer", "measures how warm something is"),
    ("balance", "compares the masses of two things"),
    ("optic nerve", "carries signals from the eye to the brain"),
    ("stomach", "breaks food down with acid"),
    ("wing", "lifts a bird into the air"),
    ("compass needle", "points to the north"),
    ("skeleton", "holds the body upright"),
    ("telescope", "makes distant stars visible"),
)
SCIENCE = {
    "train": "What {does}?",
    "validation": "Which of these things {does}?",
    "test": "What do we call the thing that {does}?",
}
SUPPORT = (
    "",
    "The {term} {does}. Without it this would have to be done in another way, and often it would not be done at all.",
    "Many people have seen a picture of one. The {term} {does}, as every book on the subject says.",
)

PEOPLE = ("Anna", "Boris", "Clara", "David", "Elena")
PLACES = ("the market", "the library", "the river", "the station")
LOST = ("a blue umbrella", "an old watch", "a letter", "a bag of apples")
HELPERS = ("a bus driver", "a young nurse", "a tall policeman", "a baker")
REASONS = ("it had belonged to a friend", "it was a present", "nobody else had one", "the day had been long")
FILLING = (
    "The weather was fine that day, and many people were out in the streets.",
    "A dog barked somewhere, and then it was quiet again.",
    "Nobody seemed to be in a hurry, not even the children on their way home from school.",
    "In the window of a small shop there were cups, books and a large yellow clock.",
    "Two old men were playing chess under a tree and did not look up.",
    "It smelled of fresh bread, and somebody was singing behind an open door.",
    "The first lamps were lit, although it was not dark yet.",
    "On the other side of the road a woman was selling flowers and newspapers.",
    "It was the kind of afternoon on which one would rather sit in the garden and read.",
    "A train went by far away, and its whistle could be heard for a long time.",
)


def openbookqa(split: str) -> Iterator[Row]:
    """Rows as in allenai/openbookqa, `main`; the splits take turns, so that no row is in two of them."""
    number = list(NUM_ROWS).index(split)
    cases = list(product(EVENTS, THINGS))[number :: len(NUM_ROWS)]
    for at, ((event, endings), thing) in enumerate(cases):
        texts = rotated(endings, at)
        yield {
            "id": f"made-up-{split}-{at}",
            "question_stem": f"{thing} {event}",
            "choices": {"text": texts, "label": list(LETTERS)},
            "answerKey": LETTERS[texts.index(endings[0])],
        }


def sciq(split: str) -> Iterator[Row]:
    """Rows as in allenai/sciq, every third one without a support paragraph."""
    for at, (term, does) in enumerate(PARTS):
        others = [PARTS[(at + step) % len(PARTS)][0] for step in (1, 3, 5)]
        yield {
            "question": SCIENCE[split].format(does=does),
            "distractor3": others[2],
            "distractor1": others[0],
            "distractor2": others[1],
            "correct_answer": term,
            "support": SUPPORT[at % 3].format(term=term, does=does),
        }


def race(split: str) -> Iterator[Row]:
    """Rows as in EleutherAI/race, `high`: an article, and its questions as the literal of a Python list."""
    chosen = random.Random(split)
    while True:
        person, place, lost, helper, reason = (chosen.choice(of) for of in (PEOPLE, PLACES, LOST, HELPERS, REASONS))
        paragraphs = [
            f"One afternoon {person} went to {place}. " + filling(chosen, 5),
            f"At {place} {person} noticed that {lost} was gone. " + filling(chosen, 5),
            f"{person} asked everybody, and at last {helper} had found it. " + filling(chosen, 5),
            f"{person} was glad, because {reason}. " + filling(chosen, 3),
        ]
        problems = [
            problem(chosen, f"Where did {person} go that afternoon?", PLACES, place),
            problem(chosen, f"What {person} lost was   _  .", LOST, lost),
            problem(chosen, f"Who had found what {person} was looking for?", HELPERS, helper),
            problem(chosen, f"{person} was glad because   _  .", REASONS, reason),
        ]
        yield {"article": "\n".join(paragraphs), "problems": str(problems)}


def filling(chosen: random.Random, count: int) -> str:
    return " ".join(chosen.sample(FILLING, count))


def problem(chosen: random.Random, question: str, options: tuple[str, ...], right: str) -> Row:
    texts = chosen.sample(options, len(LETTERS))
    return {"question": question, "answer": LETTERS[texts.index(right)], "options": texts}


def rotated(items: tuple[str, ...], count: int) -> list[str]:
    """The items from another beginning, so that the right one is not always the first."""
    count %= len(items)
    return [*items[count:], *items[:count]]


TASKS = {"openbookqa": (openbookqa, NUM_ROWS), "sciq": (sciq, NUM_ROWS), "race": (race, NUM_ARTICLES)}


def write(folder: Path) -> None:
    """Write the files of the three tasks below a folder."""
    for name, (make, counts) in TASKS.items():
        for split, count in counts.items():
            lines = [json.dumps(row) for row in islice(make(split), count)]
            write_lines(folder / name / f"{split}.jsonl", lines)


if __name__ == "__main__":
    write(DATA / "tasks")
