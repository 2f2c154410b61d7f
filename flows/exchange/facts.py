"""Facts of an exchange that each party is shown beside the scores."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.artifacts.examined import Examined
from tasks.artifacts.exposure import exposure_summary
from tasks.artifacts.files import HasSummary
from tasks.core.merging.method import Merging
from tasks.exchange.keys import grouped
from tasks.exchange.manifest import Disclosure, EmulatorManifest, TunedBlocksManifest
from tasks.models.source import ModelSource

# Of the manifest's digest of all weights, as `crash unplug` prints it.
WEIGHTS = "weights of the full model"


def emulator_facts(strategy: str, disclosure: Disclosure, model: ModelSource, tuned: Sequence[int]) -> dict[str, Any]:
    """Return what an emulator that is about to be given away discloses. tuned: blocks that are to be tuned."""
    num_blocks = model.num_blocks
    return {
        WEIGHTS: model.weights,
        "strategy": strategy,
        "blocks to be tuned": ", ".join(map(str, tuned)),
        "blocks given away": _blocks(disclosure.blocks, num_blocks),
        "share of the full model's parameters": f"{disclosure.share:.1%}",
        "blocks given to the recipient so far": _blocks(disclosure.blocks_so_far, num_blocks),
        "share so far": f"{disclosure.share_so_far:.1%}",
    }


def bundle_facts(manifest: EmulatorManifest | TunedBlocksManifest) -> dict[str, Any]:
    """Return the facts of a verified bundle that reports show."""
    return {
        "from": f"{manifest.sender.name} ({grouped(manifest.sender.fingerprint)[:19]} ...)",
        "sequence": manifest.sequence,
        "sealed": f"{manifest.created:%Y-%m-%d %H:%M} UTC",
        "valid until": f"{manifest.expires:%Y-%m-%d}",
        "size": f"{sum(each.size for each in manifest.files.values()) / 1e6:.1f} MB",
    }


def tuning_facts(
    asked: EmulatorManifest, summary: dict[str, Any], num_bytes: int, max_change: float | None
) -> dict[str, Any]:
    """Return what a tuning of a received emulator was, and what goes back. max_change: limit of each block's change."""
    plan = asked.plan
    return {
        "emulator from": asked.sender.name,
        "blocks in the emulator": _blocks(plan.kept, asked.base.num_blocks),
        "tuned blocks": ", ".join(map(str, plan.tuned)),
        "training rows": summary.get("num_rows"),
        "steps": summary.get("num_steps"),
        "time of the tuning": f"{summary.get('all_seconds', summary.get('seconds', 0)):.0f} s",
        **protection_facts(summary),
        **_limited(summary, max_change),
        "goes back": f"{num_bytes / 1e6:.1f} MB of tuned tensors, and numbers of the whole tuning; no row",
    }


def protection_facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return how a tuning protects its rows beyond keeping them.

    summary: of the tuning, or of its manifest, in which any name may be missing.
    """
    if "dp_noise" not in summary:
        return {}
    names = {"dp_epsilon": "epsilon", "dp_delta": "delta", "dp_noise": "noise", "dp_clip": "clipping"}
    said = [f"{word} {summary[name]:.3g}" for name, word in names.items() if name in summary]
    return {
        "differential privacy of a training row": ", ".join(said if "dp_epsilon" in summary else ["no epsilon", *said])
    }


def exposure_facts(result: HasSummary) -> dict[str, Any]:
    """Return how well canaries were recognised by the blocks of a tuning with them."""
    found = exposure_summary(result)
    return {
        "canaries recognised": (
            f"{found['true_positives']:.0%} of {found['num_inside']} at a false-positive rate of 1%, AUC"
            f" {found['area']:.2f}, exposure {found['bits']:.1f} bits (guessing: 1%, 0.50, 1.4 bits); by a tuning of"
            " the same settings that is not sent"
        )
    }


def answer_facts(asked: EmulatorManifest, answer: TunedBlocksManifest, changes: Examined) -> dict[str, Any]:
    """Return what tuned blocks are, how far each block moved, and what honest tunings do not do."""
    return {
        WEIGHTS: answer.base,
        **bundle_facts(answer),
        "answers": f"emulator {asked.sequence}",
        "tuned by": answer.method.get("method", "blocks"),
        **{f"{name}, as the sender says": text for name, text in protection_facts(answer.tuning).items()},
        **moved_facts("", changes),
        "alarms": "; ".join(changes["alarms"]) or "none",
    }


def moved_facts(where: str, changes: Examined) -> dict[str, Any]:
    """Return how far each block moved, and on how few directions. where: precedes the name of each fact."""
    return {
        f"{where}block {block} moved by": f"{moved:.2%} of its norm; at most {changes['direction'][block]:.0%} of a"
        " matrix's change lie along one direction"
        for block, moved in changes["moved"].items()
    }


def _limited(summary: Mapping[str, Any], max_change: float | None) -> dict[str, str]:
    if max_change is None:
        return {}
    moved = f"at most {max_change:.2%} of its norm; the furthest would have been {summary['change_before_limit']:.2%}"
    return {"change of each tuned block": moved}


def merged_facts(
    sent: Sequence[tuple[EmulatorManifest, TunedBlocksManifest]],
    changes: Sequence[Examined],
    merged: Examined,
    merging: Merging,
) -> dict[str, Any]:
    """Return how tuned blocks were merged, and for each party how far they moved and which alarms they raised.

    sent: the emulator and the answer of each; changes: of each; merged: changes by the merge.
    """
    facts = {WEIGHTS: sent[0][1].base, "merged by": merging.describe(len(sent))}
    for (asked, answer), own in zip(sent, changes, strict=True):
        name = answer.sender.name
        moved = ", ".join(f"block {block} {value:.2%}" for block, value in own["moved"].items())
        facts |= {f"{name}: {what}, as the sender says": text for what, text in protection_facts(answer.tuning).items()}
        facts |= {
            f"from {name}": f"sequence {answer.sequence}, answers emulator {asked.sequence}"
            f" ({grouped(answer.sender.fingerprint)[:19]} ...)",
            f"{name} moved": moved or "no whole block",
            f"{name} alarms": "; ".join(own["alarms"]) or "none",
        }
    return {**facts, **moved_facts("", merged), "alarms": "; ".join(merged["alarms"]) or "none"}


def _blocks(blocks: tuple[int, ...], num_blocks: int) -> str:
    return f"{len(blocks)} of {num_blocks}: {', '.join(map(str, blocks))}"
