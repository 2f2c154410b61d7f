"""Model cards in the form of the Hugging Face hub: `README.md` of bundles and of plugged models, for people.

Nothing reads a card of another party; it travels under the manifest's digests like every file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

UNKNOWN_LICENCE = "other"


@dataclass(frozen=True)
class Card:
    """title: of the page; base: name of the full model; facts: by name; scores: rows of setting, metric and value.

    loading: how the folder is used, as a block of a shell or Python; language: of that block.
    """

    title: str
    base: str
    about: str
    facts: Mapping[str, Any]
    loading: str
    language: str = "console"
    tags: Sequence[str] = ("crash-flow", "offsite-tuning")
    scores: Sequence[tuple[str, str, str]] = field(default_factory=tuple)

    def text(self) -> str:
        """Return the card, with a field for the licence that its owner fills in."""
        head = ["---", f"base_model: {self.base}", f"license: {UNKNOWN_LICENCE}  # fill in", "tags:"]
        head += [f"- {tag}" for tag in self.tags] + ["---", "", f"# {self.title}", "", self.about, ""]
        rows = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in self.facts.items()), ""]
        scored = ["| score | metric | value |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in self.scores), ""]
        use = ["## Use", "", f"```{self.language}", self.loading, "```"]
        return "\n".join([*head, *rows, *(scored if self.scores else []), *use]) + "\n"


def emulator_card(base: str, recipient: str, facts: Mapping[str, Any], scores: Sequence[tuple[str, str, str]]) -> Card:
    """Return the card of an emulator that is given away."""
    return Card(
        title=f"Emulator of {base} for {recipient}",
        base=base,
        about="A part of the model, in which a few blocks are to be tuned on data that stays where it is.",
        facts=facts,
        scores=scores,
        loading="crash tune FOLDER task.toml --out returned",
    )


def tuned_card(base: str, owner: str, facts: Mapping[str, Any]) -> Card:
    """Return the card of tuned blocks that go back."""
    return Card(
        title=f"Tuned blocks for {base}",
        base=base,
        about=f"Tuned blocks of an emulator, for {owner}, who can plug them into the full model.",
        facts=facts,
        loading="crash plug-in FOLDER --out model",
    )


def plugged_card(base: str, sender: str, facts: Mapping[str, Any], scores: Sequence[tuple[str, str, str]]) -> Card:
    """Return the card of a full model with tuned blocks."""
    return Card(
        title=f"{base} with tuned blocks from {sender}",
        base=base,
        about="The full model, in which the blocks that were tuned inside an emulator replace its own.",
        facts=facts,
        scores=scores,
        loading='from transformers import pipeline\n\npipeline("text-generation", model="FOLDER")',
        language="python",
    )
