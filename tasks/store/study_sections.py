"""What a study's page consists of: the parts with their figures, and the numbers that answer a question."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.store.studied import Drawn, Studied


@dataclass(frozen=True)
class Section:
    """One part of the page. name: word for links; intro: what its figures can tell, and what not."""

    name: str
    title: str
    intro: str
    figures: Sequence[Drawn]


@dataclass(frozen=True)
class Part:
    """A section before its figures are drawn."""

    name: str
    title: str
    intro: str
    draw: Callable[[Sequence[Studied], Path], list[Drawn]]


@dataclass(frozen=True)
class Answer:
    """A fact of a stage that answers a question, in words and with its unit."""

    stage: str
    fact: str
    words: str


PARTS: tuple[Part, ...] = ()
ANSWERS: tuple[Answer, ...] = (
    Answer("similarity", "lowest_adjacent", "lowest similarity of neighbouring blocks"),
    Answer("similarity", "highest_adjacent", "highest similarity of neighbouring blocks"),
)


def draw(cells: Sequence[Studied], out: Path) -> list[Section]:
    """Draw every part that has something to show."""
    made = [Section(part.name, part.title, part.intro, part.draw(cells, out)) for part in PARTS]
    names = [drawn.name for section in made for drawn in section.figures]
    assert len(set(names)) == len(names), f"two figures of one name among {names}"
    return [section for section in made if section.figures]


def numbers(cells: Sequence[Studied]) -> list[dict[str, Any]]:
    """Every answer that was found: `stage`, `fact`, `label` of the analysis, `words`, and `values` by cell."""
    found = []
    for answer in ANSWERS:
        labels = dict.fromkeys(label for cell in cells for label in _labels(cell, answer.stage))
        for label in labels:
            values = {cell.label: value for cell in cells if (value := _value(cell, answer, label)) is not None}
            if values:
                found.append(
                    {
                        "stage": answer.stage,
                        "fact": answer.fact,
                        "label": label,
                        "words": answer.words,
                        "values": values,
                    }
                )
    return found


def _labels(cell: Studied, stage: str) -> list[str]:
    """Labels of a stage's analyses; of an analysis without one the empty text."""
    split = [name.partition(" · ") for name in cell.analyses]
    return [label for name, _, label in split if name == stage]


def _value(cell: Studied, answer: Answer, label: str) -> Any:
    analysis = cell.analyses.get(f"{answer.stage} · {label}" if label else answer.stage)
    summary: Mapping[str, Any] = analysis.summary if analysis else {}
    return summary.get(answer.fact)
