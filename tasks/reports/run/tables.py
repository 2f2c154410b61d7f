"""The tables of a run, which Markdown and its page have in common, and the sentences around them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.artifacts.stand_ins import Runs
from tasks.core.evaluation.comparison import DERIVED, DIFFERENCES, Comparison, Mean, Strategy
from tasks.reports.spending import SIZES, format_amount
from tasks.reports.table import Table

COLUMNS = {
    "emulator_zero_shot": "zero-shot",
    "emulator_fine_tuned": "tuned",
    "plug_in": "plug-in",
    "gain": "gain",
    "leak": "leak",
    "privacy_gap": "privacy gap",
    "recovered": "recovered",
    "cpl": "CPL",
}
CHANNELS_NOTE = (
    "For each state of the support set's rows, the channel with the largest variance over the rows, and its share of"
    " the variance of all channels. Where it is above one half, linear CKA sees little more than this channel."
)
STAND_INS_NOTE = (
    "Squared error of the states behind each run of removed blocks, as a share of their squared norm, on rows of the"
    " support set that the map was not fitted to."
)
RATIOS_NOTE = (
    "recovered = gain ÷ (full tuned − full zero-shot), empty where tuning the full model does not help; CPL = emulator"
    " zero-shot ÷ full zero-shot, the capability that is given away (of a perplexity, its inverse)."
)


def settings_table(comparison: Comparison) -> Table:
    """Return the five settings: the full model first, then one row for each strategy."""
    tuned = format_score(comparison.full_fine_tuned) if comparison.full_fine_tuned else ""
    full = ["full model", format_score(comparison.full_zero_shot), tuned, *[""] * (len(COLUMNS) - 2)]
    return Table(["", *COLUMNS.values()], [full, *map(_strategy_cells, comparison.strategies)])


def spending_table(spending: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return what each strategy discloses and gets back. spending: figures by strategy, see `spending.disclosure`."""
    rows = [
        [
            "full model" if name == "full" else f"{name} emulator",
            *(format_amount(key, figures.get(key)) for key in SIZES),
        ]
        for name, figures in spending.items()
    ]
    return Table(["", *SIZES.values()], rows)


def stand_ins_table(runs: Mapping[str, Runs]) -> Table:
    """Return the linear stand-ins of each strategy. runs: by strategy, as `tasks.artifacts.stand_ins.Runs`."""
    rows = [
        [name, _blocks(front + 1, last), f"block {front}", f"{error:.1%}", f"{without:.1%}"]
        for name, found in runs.items()
        for front, last, error, without in zip(
            found["fronts"], found["lasts"], found["errors"], found["errors_without"], strict=True
        )
    ]
    return Table(["", "removed blocks", "stand-in is folded into", "error", "without stand-in"], rows)


def _blocks(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def channel_table(shares: Sequence[float], channels: Sequence[int]) -> Table:
    """Return the largest channel of every state and its share of the variance; state 0 is the embeddings."""
    names = ["embeddings", *(f"block {block}" for block in range(len(shares) - 1))]
    rows = [[name, str(channel), f"{share:.0%}"] for name, share, channel in zip(names, shares, channels, strict=True)]
    return Table(["state behind", "largest channel", "of the variance"], rows)


def caption(comparison: Comparison, facts: Mapping[str, Any]) -> str:
    """Return a sentence that says what the numbers are."""
    better = "higher" if comparison.higher_is_better else "lower"
    rows = f", {facts['num_scored_rows']} rows" if "num_scored_rows" in facts else ""
    rows += f", {facts['num_fewshot']}-shot" if "num_fewshot" in facts else ""
    model = Path(str(facts.get("model", "model"))).name
    return f"{facts.get('task', 'task')} with {model}: {comparison.metric}{rows} ({better} is better)"


def footnote(comparison: Comparison) -> str:
    """Explain ± and the columns after the scores."""
    seeds = max((strategy.plug_in.num_seeds for strategy in comparison.strategies), default=1)
    error = (
        f"± is the standard error over {seeds} tuning seeds (zero-shot: over the scored rows)."
        if seeds > 1
        else "± is the standard error over the scored rows; with one tuning seed the spread of tuning is not known."
    )
    sign = "" if comparison.higher_is_better else " Differences are turned so that positive is better."
    return (
        f"plug-in: the emulator's tuned blocks, put into the full model. {error}"
        f" gain = plug-in − full zero-shot; leak = tuned emulator − full zero-shot;"
        f" privacy gap = plug-in − tuned emulator.{sign} {RATIOS_NOTE}"
    )


def format_score(mean: Mean) -> str:
    """Format a mean and its standard error: `0.950 ± 0.007`; from 10 on, as for perplexities, with two digits."""
    digits = 3 if abs(mean.value) < 10 else 2
    error = "" if mean.stderr is None else f" ± {mean.stderr:.{digits}f}"
    return f"{mean.value:.{digits}f}{error}"


def format_derived(name: str, mean: Mean | None) -> str:
    """Format a difference with its sign, `+0.120`, or a ratio as a percentage and its standard error, `81% ± 6%`."""
    if mean is None:
        return ""
    if name in DIFFERENCES:
        return f"{mean.value:+.3f}"
    return f"{mean.value:.0%}" + ("" if mean.stderr is None else f" ± {mean.stderr:.0%}")


def _strategy_cells(strategy: Strategy) -> list[str]:
    settings = [format_score(getattr(strategy, name)) for name in list(COLUMNS)[:3]]
    derived = [format_derived(name, getattr(strategy, name)) for name in DERIVED]
    return [f"{strategy.name} emulator", *settings, *derived]
