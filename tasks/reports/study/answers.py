"""The numbers of a study that answer a question, with their descriptions; the page shows them above the figures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.reports.study.cells import CellResults


@dataclass(frozen=True)
class Answer:
    """A fact of a stage with a description and its unit. fact: one that ends with * matches all with this prefix.

    named: what the analysis's label means, where it is not self-explanatory.
    """

    stage: str
    fact: str
    words: str
    named: str = ""


ANSWERS: tuple[Answer, ...] = (
    Answer("similarity", "lowest_adjacent", "lowest similarity of neighbouring blocks"),
    Answer("similarity", "highest_adjacent", "highest similarity of neighbouring blocks"),
    Answer("structure", "num_modules", "modules that the similarity suggests", "pooling"),
    Answer("structure", "modularity", "modularity of the best cut", "pooling"),
    Answer("structure", "p_value", "p of such a cut where there are no modules", "pooling"),
    Answer("structure", "stability", "agreement of the best cuts over bootstraps (1: the same)", "pooling"),
    Answer("cross", "unlike_best_match", "1 − CKA with the most alike block of the other network, mean (debiased)"),
    Answer("cross", "unlike_same_depth", "1 − CKA with the block of the same depth, mean (debiased)"),
    Answer("lens", "mean_kl_logit", "KL from the output to the logit lens, mean over blocks (nats)"),
    Answer("lens", "mean_kl_tuned", "KL from the output to the tuned lens, mean over blocks (nats)"),
    Answer("distances", "adjacent_js", "Jensen-Shannon divergence of neighbouring blocks' predictions, mean (nats)"),
    Answer("importance", "loss", "loss of the model as it is (nats per answer token)"),
    Answer("importance", "perplexity", "perplexity of the model as it is"),
    Answer("importance", "tuned_loss", "loss of the tuned model (nats per answer token)"),
    Answer("importance", "tuned_perplexity", "perplexity of the tuned model"),
    Answer("importance", "most_important", "block whose deletion costs most"),
    Answer("importance", "largest_increase", "cost of the costliest deletion (nats)"),
    Answer("importance", "largest_perplexity", "perplexity after the costliest deletion"),
    Answer("importance", "least_important", "block whose deletion costs least"),
    Answer("importance", "num_helpful", "blocks whose deletion lowers the loss"),
    Answer("importance", "smallest_increase", "cost of the cheapest deletion (nats)"),
    Answer("importance", "smallest_perplexity", "perplexity after the cheapest deletion"),
    Answer("landscape", "barrier_*", "loss barrier (nats)"),
    Answer("landscape", "stderr_of_barrier_*", "standard error of the loss barrier over rows (nats)"),
    Answer("landscape", "place_of_barrier_*", "where the loss barrier is (0: first model, 1: second)"),
    Answer("landscape", "metric_drop_*", "how much worse the task's metric gets on the path"),
    Answer("landscape", "connected_*", "linearly connected"),
    Answer("weights", "mean_relative_distance", "distance of two blocks' matrices over their norms, mean"),
    Answer("weights", "relative_change", "how far tuning moved the weights, over their norm"),
)


def numbers(cells: Sequence[CellResults]) -> list[dict[str, Any]]:
    """Return every answer that was found: `stage`, `fact`, `label` of the analysis, `words`, and `values` by cell."""
    found = []
    for answer in ANSWERS:
        for label, fact in dict.fromkeys(place for cell in cells for place in _places(cell, answer)):
            analyses = {cell.label: one for cell in cells if (one := cell.of(answer.stage).get(label))}
            values = {name: one.summary[fact] for name, one in analyses.items() if fact in one.summary}
            words = answer.words if fact == answer.fact else f"{answer.words}, {_rest(fact, answer)}"
            words += f" ({f'{answer.named} {label}'.strip()})" if label else ""
            found.append({"stage": answer.stage, "fact": fact, "label": label, "words": words, "values": values})
    return found


def _places(cell: CellResults, answer: Answer) -> Iterator[tuple[str, str]]:
    """Yield labels of a stage's analyses (empty for one without a label), with the facts that the answer matches."""
    for label, analysis in cell.of(answer.stage).items():
        yield from ((label, fact) for fact in sorted(analysis.summary) if fact == answer.fact or _rest(fact, answer))


def _rest(fact: str, answer: Answer) -> str:
    """Return the part matched by the * in words, or an empty text if the fact does not match."""
    begin = answer.fact.removesuffix("*")
    return fact.removeprefix(begin).replace("_", " ") if begin != answer.fact and fact.startswith(begin) else ""
