"""The invented world: people with attributes, biographies that state these, and the vocabulary.

Everything is a pure function of a seed and uses only Python's random numbers, so that a world is the same on every
machine. A world has 220 people: questions about 120 of them are for training, about 20 for validation and about 80 for
the test. The model is pre-trained on the biographies of all 220.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from flows.demo.words import FIRST_NAMES, LAST_NAMES, PREFIXES, QUESTION_FORM, QUESTIONS, TEMPLATES, VALUES

NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 120, 20, 80
NUM_PEOPLE = NUM_TRAIN + NUM_VALIDATION + NUM_TEST

PAD, END_OF_TEXT, UNKNOWN = "<pad>", "<eos>", "<unk>"
SPECIAL_TOKENS = (PAD, END_OF_TEXT, UNKNOWN)

# Numbers of facts in one biography; in short ones the model has to recall a fact without the help of others.
FACTS_PER_BIOGRAPHY = (2, 3, 4, 6)


@dataclass(frozen=True)
class Person:
    """A full name of two words, and one value for each of the six attributes."""

    name: str
    values: dict[str, str]


def make_people(seed: int, num_people: int = NUM_PEOPLE) -> list[Person]:
    """Make people with distinct names and uniformly drawn attributes, in the order train, validation, test."""
    numbers = random.Random(f"people {seed}")
    names = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
    numbers.shuffle(names)
    return [
        Person(name, {attribute: numbers.choice(values) for attribute, values in VALUES.items()})
        for name in names[:num_people]
    ]


def split_people(people: list[Person]) -> dict[str, list[Person]]:
    """Return the people of each split of the task; nobody is in two splits."""
    first_test = NUM_TRAIN + NUM_VALIDATION
    return {
        "train": people[:NUM_TRAIN],
        "validation": people[NUM_TRAIN:first_test],
        "test": people[first_test:NUM_PEOPLE],
    }


def biography(person: Person, numbers: random.Random) -> list[str]:
    """Return the words of a biography: some of a person's facts in random order, each sentence with the full name."""
    words: list[str] = []
    for attribute in numbers.sample(list(VALUES), numbers.choice(FACTS_PER_BIOGRAPHY)):
        sentence = numbers.choice(TEMPLATES[attribute]).format(name=person.name, value=person.values[attribute])
        words += f"{numbers.choice(PREFIXES)} {sentence} .".split()
    return words


def biography_tokens(people: list[Person], numbers: random.Random) -> Iterator[int]:
    """Yield an endless stream of token ids: end-of-text, then the biography of a random person, repeatedly."""
    ids = vocabulary()
    while True:
        yield ids[END_OF_TEXT]
        for word in biography(numbers.choice(people), numbers):
            yield ids[word]


def recall_prompts(people: list[Person]) -> list[tuple[list[str], str]]:
    """Return (words up to the value, value) for every template that ends in its value, to test recall of facts."""
    prompts = []
    for person in people:
        for attribute, templates in TEMPLATES.items():
            for template in templates:
                if template.endswith(" {value}"):
                    start = template.removesuffix(" {value}").format(name=person.name)
                    prompts.append(([END_OF_TEXT, *start.split()], person.values[attribute]))
    return prompts


def vocabulary() -> dict[str, int]:
    """Map each word to its id: padding is 0, end-of-text 1, unknown 2, then all words in sorted order."""
    words = {*FIRST_NAMES, *LAST_NAMES, *QUESTION_FORM, "."}
    for values in VALUES.values():
        words.update(values)
    forms = [form for group in (*TEMPLATES.values(), *QUESTIONS.values()) for form in group]
    for form in (*forms, *PREFIXES):
        words.update(form.format(name="", value="").split())
    return {word: number for number, word in enumerate((*SPECIAL_TOKENS, *sorted(words)))}
