"""Report: show the five settings of every strategy as tables, pictures and one page."""

from typing import Any

from tasks.artifacts import report as files
from tasks.artifacts.clusters import Clusters, read_clusters
from tasks.artifacts.plan import read_plan
from tasks.artifacts.report import Report, ReportSummary, write_outcomes, write_report
from tasks.artifacts.scores import read_scores, scores_summary
from tasks.artifacts.similarity import SimilaritySummary, read_similarity, similarity_summary
from tasks.artifacts.stand_ins import read_runs
from tasks.artifacts.tables import LONG_TABLE, MARKDOWN_TABLE, WIDE_TABLE
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref


@stage(packages=("jinja2", "matplotlib", "pandas", "scipy"))
def report(
    work: Work, *, facts: dict[str, Any], full: dict[str, Any], strategies: list[dict[str, Any]], similarity: Ref
) -> ReportSummary:
    """Write tables (`table.csv` long, `table_wide.csv`, `table.md`), `report.html`, `report.json`, and the pictures.

    Also writes `outcomes.safetensors`: for each strategy and scored row, the mean of the plug-in's outcomes over seeds,
    where the metric is a mean over rows or a perplexity; a sweep compares strategies by them, and nothing shows them.
    full: `zero_shot`, `fine_tuned` and `tuning`; strategies: for each its name, plan, stand-ins (if any), evaluations
    and tunings, all as references to artifacts, those of several seeds in the order of `facts["tuning_seeds"]`.

    Raises:
        InputError: when stages trained or scored on differently worded rows.
    """
    from dataclasses import asdict

    from tasks.reports.run import page as run_pages
    from tasks.reports.run.tables import channel_table, stand_ins_table
    from tasks.reports.spending import disclosure, tuning_cost

    _require_same_rows(facts, full, strategies)
    comparison = _compare(full, strategies, facts["tuning_seeds"])
    num_parameters = facts.get("num_parameters")
    given = {"full": (None, full.get("tuning", []))}
    given |= {each["name"]: (each["emulator"], each["tuning"]) for each in strategies}
    spending = {
        name: disclosure(work, emulator, tunings, num_parameters) for name, (emulator, tunings) in given.items()
    }
    _save_outcomes(work, strategies)
    (work.out / LONG_TABLE).write_text(run_pages.long_csv(comparison))
    (work.out / WIDE_TABLE).write_text(run_pages.wide_csv(comparison))
    measured = read_similarity(work.open(similarity))
    shares, channels = measured["largest_share"].tolist(), measured["largest_channel"].tolist()
    summary = similarity_summary(similarity)
    notes = _notes(comparison, scores_summary(full["zero_shot"])["chance"], shares, channels, summary["estimator"])
    (work.out / MARKDOWN_TABLE).write_text(run_pages.markdown(comparison, facts, notes))
    content: Report = {
        "facts": facts,
        "comparison": asdict(comparison),
        "rows": comparison.rows(),
        "spending": spending,
        # The stage that wrote each emulator: a distilled one of the strategy uniform is another method.
        "emulators": {each["name"]: each["emulator"].stage for each in strategies},
    }
    write_report(work.out, content)
    figures = _draw(work, comparison, full, strategies, measured, summary, facts["tuning_seeds"])
    table = channel_table(shares, channels)
    maps = {each["name"]: read_runs(work.open(each["stand_ins"])) for each in strategies if "stand_ins" in each}
    page = run_pages.page(comparison, facts, figures, spending, table, notes, stand_ins_table(maps) if maps else None)
    (work.out / files.REPORT_PAGE).write_text(page)
    return {
        "strategies": [strategy.name for strategy in comparison.strategies],
        "efforts": {name: tuning_cost(tunings) for name, (_, tunings) in given.items()},
    }


def _notes(
    comparison: Any, chance: float | None, shares: list[float], channels: list[int], estimator: str
) -> list[str]:
    """Return sentences about what makes the table mean less than it seems to."""
    from tasks.core.channels import dominated
    from tasks.core.evaluation.chance import chance_note

    emulators = {each.name: each.emulator_zero_shot for each in comparison.strategies}
    found = [
        chance_note(emulators, chance, comparison.higher_is_better),
        dominated(shares, channels, estimator),
    ]
    return [note for note in found if note]


def _require_same_rows(facts: dict[str, Any], full: dict[str, Any], strategies: list[dict[str, Any]]) -> None:
    """Check that all stages trained and scored on rows of the same wording, as their numbers are compared.

    Raises:
        InputError: when they did not.
    """
    from tasks.data.wording import reworded

    given = [full, *strategies]
    for split in ("train", "validation", "scored"):
        found = {facts.get(f"{split}_digest")}
        for ref in [ref for each in given for value in each.values() for ref in _refs(value)]:
            found.add(ref.summary.get(f"{split}_digest"))
        if len(found - {None}) > 1:
            raise reworded(str(facts.get("task")), split)


def _refs(value: Any) -> list[Ref]:
    return [ref for ref in (value if isinstance(value, list) else [value]) if isinstance(ref, Ref)]


def _compare(full: dict[str, Any], strategies: list[dict[str, Any]], seeds: list[int]) -> Any:
    from tasks.core.evaluation.comparison import Score, compare

    def score(ref: Ref, seed: int | None = None) -> Score:
        summary = scores_summary(ref)
        return Score(summary["value"], summary["stderr"], seed)

    def by_seed(refs: list[Ref]) -> list[Score]:
        return [score(ref, seed) for ref, seed in zip(refs, seeds, strict=True)]

    zero_shot = full["zero_shot"]
    scored = scores_summary(zero_shot)
    return compare(
        scored["metric"],
        scored["higher_is_better"],
        score(zero_shot),
        by_seed(full["fine_tuned"]) if full["fine_tuned"] else [],
        {
            each["name"]: (
                score(each["emulator_zero_shot"]),
                by_seed(each["emulator_tuned"]),
                by_seed(each["plugged_in"]),
            )
            for each in strategies
        },
    )


def _save_outcomes(work: Work, strategies: list[dict[str, Any]]) -> None:
    """Save each row's mean over seeds (an answer that two of three seeds get right counts two thirds); more is better.

    For a perplexity, the outcomes are the documents' log-likelihoods, scaled so that a difference of means is a
    difference of the perplexity's logarithm.
    """
    import numpy as np

    outcomes = {}
    for each in strategies:
        found = [read_scores(work.open(ref)) for ref in each["plugged_in"]]
        scores = [one.per_row or one.per_row_losses for one in found]
        if all(scores):
            sign = 1 if found[0].higher_is_better else -1
            outcomes[each["name"]] = sign * np.mean(np.asarray(scores, dtype=np.float64), axis=0)
    write_outcomes(work.out, outcomes)


def _draw(
    work: Work,
    comparison: Any,
    full: dict,
    strategies: list[dict],
    matrices: dict[str, Any],
    summary: SimilaritySummary,
    seeds: list[int],
) -> dict[Any, str]:
    """Draw every picture, and return its caption by its path. matrices, summary: of the similarity."""
    from tasks.core.clustering import adjacent_similarity, dendrogram
    from tasks.reports.run import figures
    from tasks.reports.run.plans import plan_drawing
    from tasks.reports.run.results import loss_curves, scores

    estimator, num_rows = summary["estimator"], summary["num_rows"]
    blocks = matrices[estimator][1:, 1:]
    plans = {each["name"]: read_plan(work.open(each["plan"])) for each in strategies}
    nothing: Clusters = {"clusters": [], "linkage": ""}
    found = next((one for each in strategies if (one := read_clusters(work.open(each["plan"])))), nothing)
    clusters, linkage = found["clusters"], found["linkage"]
    cuts = [cluster[-1] for cluster in clusters[:-1]]
    out = work.out
    scores(comparison.rows(), comparison.metric, comparison.higher_is_better, out / files.SCORES_PICTURE)
    plan_drawing(plans, out / files.PLANS_PICTURE)
    figures.heatmap(matrices[estimator], estimator, num_rows, out / files.SIMILARITY_PICTURE)
    figures.adjacent_curve(list(adjacent_similarity(blocks)), cuts, estimator, num_rows, out / files.ADJACENT_PICTURE)
    # The tree is that of the boundary rule; clusters of another linkage are not a cut through it.
    num_clusters = len(clusters) if linkage == "boundary" else None
    figures.dendrogram(dendrogram(blocks), num_clusters, estimator, out / files.DENDROGRAM_PICTURE)
    loss_curves(_curves(work, full, strategies, seeds), out / files.LOSSES_PICTURE)
    return {
        out / files.SCORES_PICTURE: "The five settings of each strategy, with standard errors.",
        out / files.PLANS_PICTURE: "Above the full model's blocks, below what the emulator runs at each position.",
        out / files.SIMILARITY_PICTURE: "How alike the outputs of every two blocks are on the support set.",
        out / files.ADJACENT_PICTURE: "Neighbouring blocks; dashed lines are the boundaries that the clusters keep.",
        out / files.DENDROGRAM_PICTURE: "In which order adjacent blocks merge.",
        out / files.LOSSES_PICTURE: "Training loss of every tuning.",
    }


def _curves(work: Work, full: dict, strategies: list[dict], seeds: list[int]) -> dict[str, list[tuple[int, float]]]:
    from tasks.store.metrics import METRICS_FILE, read_metrics

    tunings = {"full": full.get("tuning", [])} | {each["name"]: each["tuning"] for each in strategies}
    curves = {}
    for name, refs in tunings.items():
        for ref, seed in zip(refs, seeds, strict=False):
            entries = read_metrics(work.open(ref) / METRICS_FILE)
            curves[f"{name}, seed {seed}"] = [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]
    return {name: points for name, points in curves.items() if points}
