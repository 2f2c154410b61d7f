"""The stages of a recovery audit, which the model owner runs before an emulator is given away.

emulator ─┬──────────────────────────────────────────┬─ validate, evaluate ─ audit_report
          ├─ fill ─┬─────────────────────────────────┤
          │        └─ distill (copies of kept blocks)┤
plan ─────┴─ cluster ─ stand_ins ─ emulate ──────────┘

Source of the question where hidden blocks are best hidden: arXiv 2410.11182.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.running.base_run import BaseRun
from flows.settings.kinds import AuditSettings
from tasks.cluster import cluster
from tasks.core.plan.hidden import known_around, plan_with_maps
from tasks.core.tuning.settings import Distillation
from tasks.data.sources import TaskSource
from tasks.distill import distill
from tasks.emulate import emulate
from tasks.evaluate import evaluate
from tasks.parties.audit_report import audit_report
from tasks.parties.fill import fill
from tasks.stand_ins import stand_ins
from tasks.validate import validate

if TYPE_CHECKING:
    from tasks.core.costs.sizes import Sizes

AuditRun = BaseRun[AuditSettings]
# A model in which hidden blocks are filled in, and their number.
Filled = tuple[Any, int]


@dataclass(frozen=True)
class Hidden:
    """Hidden blocks. name: strategy or position; known: the other blocks; emulator: the model of these alone."""

    name: str
    known: tuple[int, ...]
    emulator: Any

    def blocks(self, num_blocks: int) -> list[int]:
        """Return the indices of the hidden blocks."""
        return sorted({*range(num_blocks)} - {*self.known})


def hidden_at(run: AuditRun, num_hidden: int) -> list[Hidden]:
    """Hide a run of as many blocks at each position of the settings."""
    found, num_blocks = [], run.model.num_blocks
    for position in run.settings.audit.positions:
        known = known_around(position, num_blocks, num_hidden)
        plan = run(cluster, position, strategy="fixed", num_blocks=num_blocks, kept=known, tuned=known[-1:], share=None)
        found.append(Hidden(position, known, run(emulate, position, model=run.model, plan=plan)))
    return found


def public_text(run: AuditRun) -> TaskSource:
    """Return the text with as many validation documents, and windows as long, as the settings say."""
    limits = {"num_validation": run.settings.audit.num_documents, "max_length": run.settings.distill.block}
    return run.text.model_copy(update=limits)


def audit_stages(
    run: AuditRun,
    emulators: Sequence[Hidden],
    runs: Sequence[Hidden],
    tasks: Mapping[str, TaskSource],
    sizes: "Sizes",
    vocabulary: int,
) -> Any:
    """Submit every fill of what is hidden, its losses and scores; return the result of the last stage, the report.

    emulators: those that may be given away, which are scored on all tasks; runs: the same number of blocks elsewhere;
    tasks: by name; sizes: numbers of parameters of the blocks; vocabulary: number of tokens.
    """
    losses, scores, text = list[dict[str, Any]](), list[dict[str, Any]](), public_text(run)
    for hidden in (*emulators, *runs):
        models = filled(run, hidden)
        losses += _losses(run, hidden, models, text, sizes)
        if hidden in emulators:
            scores += _scores(run, hidden, models, tasks)
    full = run(validate, "full", model=run.model, task=text, **run.arguments.evaluate)
    full_scores = {name: _score(run, f"full, {name}", task) for name, task in tasks.items()}
    facts = {**_facts(run), "vocabulary": vocabulary}
    return run(audit_report, facts=facts, full=full, full_scores=full_scores, losses=losses, scores=scores)


def filled(run: AuditRun, hidden: Hidden) -> dict[str, Filled]:
    """Fill in hidden blocks in every way of the settings; return the models, with the number of blocks filled in.

    The first, "none", is the emulator as it is.
    """
    chosen, num_hidden = run.settings.audit.fills, run.model.num_blocks - len(hidden.known)
    found = {"none": (hidden.emulator, 0)}
    if {"nearest", "trained", "distilled"} & {*chosen}:
        copies = run(fill, hidden.name, emulator=hidden.emulator)
        found["nearest"] = (copies, num_hidden)
    if "linear" in chosen and (maps := with_maps(run, hidden)):
        found["linear"] = maps
    for how in ("trained", "distilled"):
        if how in chosen:
            teaching = {"teacher": run.model, "text": run.text, **training(run, how == "distilled")}
            found[how] = (run(distill, f"{hidden.name} {how}", emulator=copies, **teaching), num_hidden)
    return {how: made for how, made in found.items() if how in ("none", *chosen)}


def with_maps(run: AuditRun, hidden: Hidden) -> Filled | None:
    """Put linear maps in the place of hidden blocks; None where no known block is in front of any.

    Maps are fitted on the public text to the full model's states; known blocks are the full model's own.
    """
    how = plan_with_maps(run.model.num_blocks, hidden.known)
    if not how.replaced_runs:
        return None
    name = f"{hidden.name} linear"
    chosen = {"kept": how.kept, "tuned": how.tuned, "share": how.share}
    plan = run(cluster, name, strategy="fixed", num_blocks=how.num_blocks, **chosen)
    rows = {**run.arguments.stand_ins, "split": "train", "part": "prompt+answer"}
    maps = run(stand_ins, name, model=run.model, task=public_text(run), plan=plan, **rows)
    num_filled = sum(last - front for front, last in how.replaced_runs)
    return run(emulate, name, model=run.model, plan=plan, stand_ins=maps), num_filled


def training(run: AuditRun, with_states: bool) -> dict[str, Any]:
    """Return the arguments of the training of copies.

    with_states: also with the states of the full model, weighted by distill.hidden_weight; else on text alone.
    """
    audit, distilled = run.settings.audit, run.settings.distill
    how = distilled.make(
        Distillation,
        num_steps=audit.num_steps,
        batch_size=audit.batch_size,
        learning_rate=audit.learning_rate,
        warmup_steps=audit.num_steps // 10,
        hidden_weight=distilled.hidden_weight if with_states else 0.0,
        eval_steps=None,
        loss_margin=None,
        random_prompt=0,
    )
    chosen = {"settings": how.training, "block": how.block, "hidden_weight": how.hidden_weight}
    return {**chosen, "precision": run.facts["precision"]}


def _losses(
    run: AuditRun, hidden: Hidden, models: Mapping[str, Filled], text: TaskSource, sizes: "Sizes"
) -> list[dict[str, Any]]:
    """Measure the loss of each filled model on the public text."""
    blocks = hidden.blocks(run.model.num_blocks)
    share = sum(sizes.blocks[block] for block in blocks) / sizes.total
    row, given = {"hidden": hidden.name, "blocks": blocks, "share": share}, {"model": run.model, "task": text}
    found = []
    for how, (emulator, num_filled) in models.items():
        loss = run(validate, f"{hidden.name} {how}", **given, emulator=emulator, **run.arguments.evaluate)
        found.append({**row, "fill": how, "num_filled": num_filled, "loss": loss})
    return found


def _scores(
    run: AuditRun, hidden: Hidden, models: Mapping[str, Filled], tasks: Mapping[str, TaskSource]
) -> list[dict[str, Any]]:
    """Score each filled model on every task."""
    found = []
    for name, task in tasks.items():
        for how, (emulator, _) in models.items():
            score = _score(run, f"{hidden.name} {how}, {name}", task, emulator=emulator)
            found.append({"hidden": hidden.name, "fill": how, "task": name, "score": score})
    return found


def _score(run: AuditRun, label: str, task: TaskSource, **emulator: Any) -> Any:
    return run(evaluate, label, model=run.model, task=task, **emulator, **run.arguments.scoring)


def _facts(run: AuditRun) -> dict[str, Any]:
    audit, block = run.settings.audit, min(run.settings.distill.block, run.model.context)
    known = ("model", "num_blocks", "num_parameters", "precision", "num_kept")
    return {
        **{name: run.facts[name] for name in known},
        "num_steps": audit.num_steps,
        "batch_size": audit.batch_size,
        "block": block,
        "learning_rate": audit.learning_rate,
        "trained_tokens": audit.num_steps * audit.batch_size * (block - 1),
    }
