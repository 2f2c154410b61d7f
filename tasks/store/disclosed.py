"""What a strategy disclosed and cost, and how it was made, read from its artifacts."""

from collections.abc import Sequence
from typing import Any

from tasks.core.disclosure import Costs, mean_seconds
from tasks.core.plan import Plan
from tasks.store.artifacts import Ref
from tasks.store.work import Work

# What goes back to the owner of the model.
TUNED_FILE = "tuned.safetensors"


def strategy_costs(work: Work, strategy: dict[str, Any], num_parameters: int) -> Costs:
    """Of one strategy, as the report is given it. num_parameters: of the full model."""
    size, tunings = strategy["emulator"].summary, strategy["tuning"]
    return Costs(
        disclosed_parameters=size["num_parameters"],
        disclosed_share=size["num_parameters"] / num_parameters,
        disclosed_bytes=size["num_bytes"],
        returned_bytes=(work.open(tunings[0]) / TUNED_FILE).stat().st_size,
        **_tuning(tunings),
    )


def full_costs(full: dict[str, Any]) -> Costs:
    """Of tuning the full model, where nothing is disclosed."""
    return Costs(**_tuning(full["tuning"]))


def method(work: Work, strategy: dict[str, Any]) -> dict[str, Any]:
    """How its emulator was made: budget, sharing, linkage of its clusters, and the stages that made the folder."""
    import json

    folder = work.open(strategy["plan"])
    plan, clusters = Plan.from_json((folder / "plan.json").read_text()), folder / "clusters.json"
    return {
        "num_blocks": plan.num_blocks,
        "num_kept": len(plan.kept),
        "num_tuned": len(plan.tuned),
        "share": plan.share or "none",
        "linkage": json.loads(clusters.read_text())["linkage"] if clusters.exists() else None,
        "emulator": _made_by(work, strategy["emulator"]),
    }


def _made_by(work: Work, emulator: Ref) -> list[str]:
    """The stages through which an emulator went, the last one first."""
    found = work.store.find(emulator.stage, emulator.key)
    parents = found.manifest["parents"] if found else []
    before = [Ref(**parent) for parent in parents if parent["stage"] in ("emulate", "compress", "distill")]
    return [emulator.stage, *(_made_by(work, before[0]) if before else [])]


def _tuning(tunings: Sequence[Ref]) -> dict[str, Any]:
    summaries = [ref.summary for ref in tunings]
    gpu = [summary["peak_gpu_memory_gib"] for summary in summaries if "peak_gpu_memory_gib" in summary]
    return {
        "trained_parameters": summaries[0]["num_parameters"],
        # Of several learning rates, all of them were tuned.
        "tuning_seconds": mean_seconds([summary.get("all_seconds", summary["seconds"]) for summary in summaries]),
        "peak_memory_gib": max(summary["peak_memory_gib"] for summary in summaries),
        "peak_gpu_memory_gib": max(gpu) if gpu else None,
    }
