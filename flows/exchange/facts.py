"""Facts of an exchange that each party is shown beside the scores."""

from collections.abc import Sequence
from typing import Any

from tasks.artifacts.examined import Examined
from tasks.core.merging.method import Merging
from tasks.exchange.keys import grouped
from tasks.exchange.manifest import Disclosure, EmulatorManifest, TunedBlocksManifest


def emulator_facts(strategy: str, disclosure: Disclosure, num_blocks: int) -> dict[str, Any]:
    """Return what an emulator that is about to be given away discloses."""
    return {
        "strategy": strategy,
        "blocks given away": _blocks(disclosure.blocks, num_blocks),
        "share of the full model's parameters": f"{disclosure.share:.1%}",
        "blocks given to the recipient so far": _blocks(disclosure.blocks_so_far, num_blocks),
        "share so far": f"{disclosure.share_so_far:.1%}",
    }


def bundle_facts(manifest: EmulatorManifest | TunedBlocksManifest) -> dict[str, Any]:
    """Return what is told of a verified bundle."""
    return {
        "from": f"{manifest.sender.name} ({grouped(manifest.sender.fingerprint)[:19]} ...)",
        "sequence": manifest.sequence,
        "sealed": f"{manifest.created:%Y-%m-%d %H:%M} UTC",
        "valid until": f"{manifest.expires:%Y-%m-%d}",
        "size": f"{sum(each.size for each in manifest.files.values()) / 1e6:.1f} MB",
    }


def tuning_facts(asked: EmulatorManifest, summary: dict[str, Any], num_bytes: int) -> dict[str, Any]:
    """Return what a tuning of a received emulator was, and what goes back."""
    plan = asked.plan
    return {
        "emulator from": asked.sender.name,
        "blocks in the emulator": _blocks(plan.kept, asked.base.num_blocks),
        "tuned blocks": ", ".join(map(str, plan.tuned)),
        "training rows": summary.get("num_rows"),
        "steps": summary.get("num_steps"),
        "time of the tuning": f"{summary.get('all_seconds', summary.get('seconds', 0)):.0f} s",
        "goes back": f"{num_bytes / 1e6:.1f} MB of tuned tensors, and numbers of the whole tuning; no row",
    }


def answer_facts(asked: EmulatorManifest, answer: TunedBlocksManifest, changes: Examined) -> dict[str, Any]:
    """Return what tuned blocks are, how far each block moved, and what honest tunings do not do."""
    moved = {f"block {block} moved by": f"{value:.2%} of its norm" for block, value in changes["moved"].items()}
    return {
        **bundle_facts(answer),
        "answers": f"emulator {asked.sequence}",
        "tuned by": answer.method.get("method", "blocks"),
        **moved,
        "alarms": "; ".join(changes["alarms"]) or "none",
    }


def merged_facts(
    sent: Sequence[tuple[EmulatorManifest, TunedBlocksManifest]],
    changes: Sequence[Examined],
    merged: Examined,
    merging: Merging,
) -> dict[str, Any]:
    """Return how tuned blocks of several parties were merged, and of each party's how far they moved and what honest
    tunings do not do. sent: the emulator and the answer of each; changes: of each; merged: changes by the merge.
    """
    facts = {"merged by": merging.describe(len(sent))}
    for (asked, answer), own in zip(sent, changes, strict=True):
        name = answer.sender.name
        moved = ", ".join(f"block {block} {value:.2%}" for block, value in own["moved"].items())
        facts |= {
            f"from {name}": f"sequence {answer.sequence}, answers emulator {asked.sequence}"
            f" ({grouped(answer.sender.fingerprint)[:19]} ...)",
            f"{name} moved": moved or "no whole block",
            f"{name} alarms": "; ".join(own["alarms"]) or "none",
        }
    after = {f"block {block} moved by": f"{value:.2%} of its norm" for block, value in merged["moved"].items()}
    return {**facts, **after, "alarms": "; ".join(merged["alarms"]) or "none"}


def _blocks(blocks: tuple[int, ...], num_blocks: int) -> str:
    return f"{len(blocks)} of {num_blocks}: {', '.join(map(str, blocks))}"
