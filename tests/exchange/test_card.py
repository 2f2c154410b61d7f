"""Model cards: the front matter is YAML that the hub reads."""

import yaml

from tasks.exchange.card import emulator_card, plugged_card, tuned_card


def test_cards_have_front_matter_facts_scores_and_how_to_use_them() -> None:
    scores = [("emulator, before tuning", "acc", "0.142 ± 0.016")]
    facts = {"blocks given away": "6 of 12: 0, 1"}
    for card in (
        emulator_card("demo", "clinic", facts, scores),
        tuned_card("demo", "acme", facts),
        plugged_card("demo", "clinic", facts, scores),
    ):
        text = card.text()
        _, head, body = text.split("---\n", 2)
        assert yaml.safe_load(head) == {
            "base_model": "demo",
            "license": "other",
            "tags": ["crash-flow", "offsite-tuning"],
        }
        assert "| blocks given away | 6 of 12: 0, 1 |" in body
        assert "## Use" in body
        assert ("0.142" in body) == bool(card.scores)
