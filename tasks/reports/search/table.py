"""The table of a search as text: CSV with every value, Markdown with those that a reader needs."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.reports.input_notes import input_notes
from tasks.reports.table import Table

NAMES = {
    "gradient_cosine": "gradient cosine",
    "kl": "KL of next token",
    "state_error": "error of states",
}
NOTE = (
    "Losses are mean negative log-likelihoods of the validation rows' answer tokens in nats (lower is better); the"
    " scored split was not read. gain = full zero-shot − plug-in; leak = full zero-shot − tuned emulator; privacy gap ="
    " tuned emulator − plug-in. * is on the frontier: no other plan is at least as good in gain, privacy gap and bytes."
    " Proxies compare the emulator with the full model on the support set, before any tuning."
)


def long_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return CSV with one row for each plan, including those that were left out."""
    return Table.of_records(rows).csv()


def markdown(
    facts: Mapping[str, Any],
    full_loss: float,
    rows: Sequence[Mapping[str, Any]],
    agreements: Mapping[str, Mapping[str, Any] | None],
    snippet: str,
) -> str:
    """Return the plans in order, how well the proxies predict gains, the plans left out and why, and the best plan."""
    tried = [row for row in rows if row["reason"] is None]
    measured = [row for row in tried if row["gain"] is not None]
    left_out = [f"- {row['name']}: {row['reason']}" for row in rows if row["reason"] is not None]
    title = (
        f"{facts['task']} with {facts['model']}: {len(measured)} of {len(rows)} plans measured, at most"
        f" {facts['max_disclosed']:.0%} of the parameters disclosed; validation loss of the full model {full_loss:.4f}"
    )
    seeds = len(facts["tuning_seeds"])
    errors = f" ± is the standard error over {seeds} tuning seeds." if seeds > 1 else ""
    parts = [title, "", _plans(tried).markdown(), "", NOTE + errors, ""]
    parts += [line for note in input_notes(facts) for line in (note, "")]
    parts += _agreement(agreements, len(measured))
    if left_out:
        parts += ["", "Left out:", "", *left_out]
    parts += ["", f"Best plan: {rows[0]['name']}", "", "```toml", snippet.rstrip(), "```"]
    return "\n".join([*parts, ""])


def _plans(rows: Sequence[Mapping[str, Any]]) -> Table:
    header = ["#", "plan", "disclosed", "MB", *NAMES.values()]
    header += ["plug-in loss", "gain", "leak", "privacy gap", "frontier"]
    return Table(header, map(_cells, rows), num_names=2)


def _cells(row: Mapping[str, Any]) -> list[str]:
    known = [str(row["number"]), row["name"], f"{row['disclosed']:.1%}"]
    proxies = [f"{row[name]:.4g}" for name in NAMES]
    if row["gain"] is None:
        return [*known, "", *proxies, "not measured", "", "", "", ""]
    loss, stderr = row["plug_in_loss"], row["plug_in_loss_stderr"]
    shown = f"{loss:.4f}" + ("" if stderr is None else f" ± {stderr:.4f}")
    differences = [f"{row[name]:+.4f}" for name in ("gain", "leak", "privacy_gap")]
    return [*known, f"{row['num_bytes'] / 1e6:.3g}", *proxies, shown, *differences, "*" if row["on_frontier"] else ""]


def _agreement(agreements: Mapping[str, Mapping[str, Any] | None], num_measured: int) -> list[str]:
    """Return rank correlations of the proxies with the gain; positive if a proxy predicted the order."""
    if not any(agreements.values()):
        return [f"With {num_measured} measured plan(s) nothing can be said about what the proxies foretell."]
    header = ["proxy and measured gain", "Spearman", "p", "Kendall", "p", "plans"]
    lines = [
        [f"{NAMES[name]} ({'higher' if name == 'gradient_cosine' else 'lower'} is better)", *_numbers(found)]
        for name, found in agreements.items()
    ]
    note = "Rank correlation with the measured gain, turned so that +1 is a proxy that foretold the whole order."
    return [Table(header, lines).markdown(), "", note]


def _numbers(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["the same for all", "", "", "", ""]
    values = [f"{found[name]:+.3f}" if not name.endswith("_p") else f"{found[name]:.2g}" for name in list(found)[1:]]
    return [*values, str(found["num_plans"])]
