"""Trajectory: trace predictions block by block, in the full model and in models without some of its blocks."""

from typing import TYPE_CHECKING, Any

from tasks.artifacts.plan import read_plan
from tasks.artifacts.study.trajectory import Row, TrajectorySummary, Variant, write_trajectories
from tasks.core.errors import InputError
from tasks.data.sources import Split, TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref

if TYPE_CHECKING:
    from tasks.core.study.predictions import Trajectory


@stage(packages=("torch", "transformers", "tokenizers", "lm_eval"), gpu=True)
def trajectory(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    lens: Ref | None = None,
    plans: dict[str, Ref] | None = None,
    *,
    num_rows: int,
    split: Split,
    num_positions: int,
    precision: str,
) -> TrajectorySummary:
    """Read the likeliest token behind every block at the last positions of the first rows (CRaSh, figure 3).

    lens: a tuned lens of this model; by default the logit lens. plans: by name; the kept blocks of each run one after
    another. Writes `tasks.artifacts.study.trajectory.Trajectories`. Only this file and the figures made of it contain
    words of rows.

    Raises:
        InputError: when a plan or the lens is of another model, or a number is not finite.
    """
    from tasks.core.blocks.devices import place
    from tasks.core.blocks.surgery import rearranged
    from tasks.core.study.predictions import trace
    from tasks.core.study.states_of_variants import base_device
    from tasks.data.tokenize import load_examples
    from tasks.models.lens_files import chosen_lens
    from tasks.models.loading import load_model, load_tokenizer

    tokenizer = load_tokenizer(model)
    rows = load_examples(task, split, tokenizer, model.context, limit=num_rows).rows[:num_rows]
    variants = _variants(work, model, plans or {})
    network = load_model(model, precision, base_device(work.device))
    reader = chosen_lens(work.open(lens) if lens else None, model, network)
    runs = {
        name: place(rearranged(network, [(block, False) for block in kept]), work.device)
        for name, kept in variants.items()
    }
    told: list[Row] = []
    for row in work.progress(rows, "rows"):
        found: dict[str, Trajectory] = {}
        for name, kept in variants.items():
            reference = found["full"].final if found else None
            found[name] = trace(runs[name], reader, row, num_positions=num_positions, sources=kept, reference=reference)
        ids = (*row.prompt_ids, *row.answer_ids)[-num_positions:]
        told.append(
            {
                "row": row.row,
                "tokens": [str(tokenizer.decode([token])) for token in ids],
                "variants": {name: _as_text(each, tokenizer) for name, each in found.items()},
            }
        )
    how = "logit" if lens is None else "tuned"
    write_trajectories(work.out, {"lens": how, "split": split, "rows": told})
    return {"lens": how, "num_rows": len(told), "num_blocks": {name: len(kept) for name, kept in variants.items()}}


def _variants(work: Work, model: ModelSource, plans: dict[str, Ref]) -> dict[str, tuple[int, ...]]:
    """Return the blocks that each variant runs."""
    variants: dict[str, tuple[int, ...]] = {"full": tuple(range(model.num_blocks))}
    for name, ref in plans.items():
        plan = read_plan(work.open(ref))
        if plan.num_blocks != model.num_blocks:
            raise InputError(
                f"the plan {name!r} is for {plan.num_blocks} blocks, {model.name} has {model.num_blocks}: make one for"
                " this model"
            )
        if name == "full":
            raise InputError("trajectory: 'full' is the model itself; give the plan another name")
        variants[name] = plan.kept
    return variants


def _as_text(found: "Trajectory", tokenizer: Any) -> Variant:
    """Return a trajectory for JSON, with tokens as text."""
    return {
        "sources": list(found.sources),
        "top": [[tokenizer.decode([token]) for token in line] for line in found.top.tolist()],
        "probability": found.probability.tolist(),
        "entropy": found.entropy.tolist(),
        "kl": found.kl.tolist(),
    }
