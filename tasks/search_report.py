"""Frontier: show every plan of a search in one table, how well proxies predicted gains, and which plans are best."""

from collections.abc import Mapping
from typing import Any

from tasks.artifacts.emulator import emulator_sizes
from tasks.artifacts.proxies import proxies_summary
from tasks.artifacts.search_table import BEST_FILE, FRONTIER_PICTURE, SearchSummary, SearchTable, write_search_table
from tasks.artifacts.tables import LONG_TABLE, MARKDOWN_TABLE
from tasks.artifacts.validation_loss import loss_summary
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref


@stage(packages=("matplotlib", "pandas", "scipy"))
def frontier(work: Work, *, facts: dict[str, Any], full: Ref, trials: list[dict[str, Any]]) -> SearchSummary:
    """Write tables (`table.csv`, `table.md`), `search.json`, `best.toml` and the picture `frontier.png`.

    full: validation of the full model. trials: for each plan its `name`, values, `disclosed` share, `snippet` for a
    settings file, and either `reason`, why it was left out, or references to its `proxies` and, if it was tuned, to
    `emulator`, `emulator_tuned` and `plugged_in` (validations, one for each tuning seed).
    """
    from dataclasses import asdict

    from tasks.core.evaluation.searching import order, proxy_agreement
    from tasks.reports.search import figure as search_figure
    from tasks.reports.search import table as search_pages

    zero_shot = loss_summary(full)["loss"]
    rows = order([_row(trial, zero_shot) for trial in trials])
    best = rows[0]
    chosen = next(trial["snippet"] for trial in trials if trial["name"] == best["name"])
    agreements = {name: asdict(found) if found else None for name, found in proxy_agreement(rows).items()}
    content: SearchTable = {
        "facts": facts,
        "full_loss": zero_shot,
        "rows": rows,
        "proxies": agreements,
        "best": best["name"],
    }
    write_search_table(work.out, content)
    (work.out / LONG_TABLE).write_text(search_pages.long_csv(rows))
    (work.out / MARKDOWN_TABLE).write_text(search_pages.markdown(facts, zero_shot, rows, agreements, chosen))
    (work.out / BEST_FILE).write_text(chosen)
    search_figure.draw(rows, facts, work.out / FRONTIER_PICTURE)
    return {
        "best": best["name"],
        "num_measured": sum(row["gain"] is not None for row in rows),
        "plug_in_loss": best["plug_in_loss"],
        "gain": best["gain"],
        "privacy_gap": best["privacy_gap"],
        "disclosed": best["disclosed"],
        "num_bytes": best["num_bytes"],
    }


def _row(trial: dict[str, Any], zero_shot: float) -> dict[str, Any]:
    """Return one plan's numbers: losses in nats per answer token, means over seeds with errors, paired differences.

    gain = full zero-shot - plug-in, leak = full zero-shot - tuned emulator, privacy gap = tuned emulator - plug-in.
    """
    from tasks.core.evaluation.ranking import PROXIES
    from tasks.core.evaluation.searching import loss_differences

    named = ("name", "strategy", "num_kept", "num_tuned", "share", "disclosed", "reason")
    emulator = trial.get("emulator")
    proxies: Mapping[str, Any] = proxies_summary(trial["proxies"]) if trial.get("proxies") else {}
    return {
        **{name: trial.get(name) for name in named},
        "num_bytes": emulator_sizes(emulator)["num_bytes"] if emulator else None,
        **{name: proxies.get(name) for name in PROXIES},
        **loss_differences(zero_shot, _losses(trial, "emulator_tuned"), _losses(trial, "plugged_in")),
    }


def _losses(trial: dict[str, Any], name: str) -> list[float]:
    return [loss_summary(ref)["loss"] for ref in trial.get(name, [])]
