"""The invented world: people with attributes, biographies that state them, and the vocabulary of it all.

Everything is a pure function of a seed and uses only Python's own random numbers, so that a world is the same on every
machine. A world has 220 people: 120 whose questions train, 20 whose questions choose settings, 80 whose questions test.
The biographies of all 220 are what the model is pre-trained on.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from flows.demo.words import FIRST_NAMES, LAST_NAMES, PREFIXES, QUESTION_FORM, QUESTIONS, TEMPLATES, VALUES

NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 120, 20, 80
NUM_PEOPLE = NUM_TRAIN + NUM_VALIDATION + NUM_TEST

PAD, END_OF_TEXT, UNKNOWN = "<pad>", "<eos>", "<unk>"
SPECIAL_TOKENS = (PAD, END_OF_TEXT, UNKNOWN)

# Numbers of facts in one biography; short ones make the model recall a fact without the others as a crutch.
FACTS_PER_BIOGRAPHY = (2, 3, 4, 6)


@dataclass(frozen=True)
class Person:
    """A full name of two words, and one value for each of the six attributes."""

    name: str
    values: dict[str, str]


def make_people(seed: int, num_people: int = NUM_PEOPLE) -> list[Person]:
    """People with distinct names and attributes drawn uniformly; train, validation and test people follow in order."""
    numbers = random.Random(f"people {seed}")
    names = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
    numbers.shuffle(names)
    return [
        Person(name, {attribute: numbers.choice(values) for attribute, values in VALUES.items()})
        for name in names[:num_people]
    ]


def split_people(people: list[Person]) -> dict[str, list[Person]]:
    """The people of each split of the task; no person is in two."""
    first_test = NUM_TRAIN + NUM_VALIDATION
    return {
        "train": people[:NUM_TRAIN],
        "validation": people[NUM_TRAIN:first_test],
        "test": people[first_test:NUM_PEOPLE],
    }


def biography(person: Person, numbers: random.Random) -> list[str]:
    """Words of some of a person's facts in random order, the full name in every sentence."""
    words: list[str] = []
    for attribute in numbers.sample(list(VALUES), numbers.choice(FACTS_PER_BIOGRAPHY)):
        sentence = numbers.choice(TEMPLATES[attribute]).format(name=person.name, value=person.values[attribute])
        words += f"{numbers.choice(PREFIXES)} {sentence} .".split()
    return words


def biography_tokens(people: list[Person], numbers: random.Random) -> Iterator[int]:
    """Endless stream of token ids: end-of-text, then the biography of a random person, again and again."""
    ids = vocabulary()
    while True:
        yield ids[END_OF_TEXT]
        for word in biography(numbers.choice(people), numbers):
            yield ids[word]


def recall_prompts(people: list[Person]) -> list[tuple[list[str], str]]:
    """(words up to the value, value) of every template that ends in its value: recall in the pre-training format."""
    prompts = []
    for person in people:
        for attribute, templates in TEMPLATES.items():
            for template in templates:
                if template.endswith(" {value}"):
                    start = template.removesuffix(" {value}").format(name=person.name)
                    prompts.append(([END_OF_TEXT, *start.split()], person.values[attribute]))
    return prompts


def vocabulary() -> dict[str, int]:
    """Word to id: padding is 0, end-of-text 1, unknown 2, then every word in sorted order."""
    words = {*FIRST_NAMES, *LAST_NAMES, *QUESTION_FORM, "."}
    for values in VALUES.values():
        words.update(values)
    forms = [form for group in (*TEMPLATES.values(), *QUESTIONS.values()) for form in group]
    for form in (*forms, *PREFIXES):
        words.update(form.format(name="", value="").split())
    return {word: number for number, word in enumerate((*SPECIAL_TOKENS, *sorted(words)))}
