"""Importance: measure the loss without a block, with another block in its place, or with its tuning undone."""

from typing import TYPE_CHECKING, Any

from tasks.artifacts.study.importance import ImportanceFacts, ImportanceSummary, write_importance
from tasks.data.sources import Split, TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from tasks.core.batching import Example
    from tasks.core.blocks.streaming import StoredTensors
    from tasks.core.study.importance import RowLosses


@stage(packages=("torch", "transformers", "tokenizers", "lm_eval"), gpu=True)
def importance(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    tuned: Ref | None = None,
    *,
    num_rows: int | None = None,
    split: Split = "validation",
    pairs: bool = False,
    precision: str = "float32",
    max_tokens: int = 8192,
) -> ImportanceSummary:
    """Compute losses over answer tokens, in nats, of a model whose blocks are changed one at a time.

    tuned: a tuning (of `tune` or `plug_in`) whose blocks are also rewound one at a time; pairs: also run every block at
    every other block's position. With neither, blocks may be loaded one at a time. Of several GPUs the first is used.

    Raises:
        InputError: when there are fewer than two rows, the model's own loss is not finite, or the tuning is of another
            model.
    """
    from tasks.core.blocks.devices import EVERY
    from tasks.data.task_measure import limited, require_several
    from tasks.data.tokenize import load_examples
    from tasks.models.loading import load_tokenizer
    from tasks.models.points import load_tuned_model
    from tasks.models.streamed import open_model

    examples = load_examples(limited(task, split, num_rows), split, load_tokenizer(model), model.context)
    require_several(examples.num_rows, task, split)
    # Other changes need several blocks at a time.
    device, scratch = (work.device, None) if pairs or tuned is not None else work.place
    options: Any = {"max_length": model.context, "max_tokens": work.pass_tokens(max_tokens, "evaluate.max_tokens")}
    options["progress"] = lambda parts: work.progress(parts, "variations" if scratch is None else "blocks")
    with open_model(model, precision, "cuda:0" if device == EVERY else device, scratch) as (network, stored):
        if stored is not None:
            tensors, num_tokens = _deleted(network, stored, examples.rows, options)
        else:
            tensors, num_tokens = _changed(network, examples.rows, pairs, options)
        if tuned is not None:
            tensors |= _rewound(network, *load_tuned_model(network, work.open(tuned), "tuned"), examples.rows, options)
    write_importance(work.out, tensors)
    return {"num_rows": examples.num_rows, "num_tokens": num_tokens, "split": split, **_facts(tensors)}


def _deleted(
    network: "PreTrainedModel", stored: "StoredTensors", rows: "Sequence[Example]", options: "Mapping[str, Any]"
) -> "tuple[dict[str, Tensor], int]":
    """Return losses of the model unchanged and without each block, and the answer tokens; blocks are on disk."""
    from tasks.core.study.importance import streamed_losses

    found = streamed_losses(network, stored, rows, **options)
    tensors = {"loss": _mean(found, found.whole), **_with_errors("deleted", found, found.varied)}
    return tensors, int(found.num_tokens.sum())


def _changed(
    network: "PreTrainedModel", rows: "Sequence[Example]", pairs: bool, options: "Mapping[str, Any]"
) -> "tuple[dict[str, Tensor], int]":
    """Return losses of the model unchanged, without each block and with others in its place, and the answer tokens."""
    from tasks.core.study.importance import deletions, replacements, row_losses

    variations = deletions(network)
    num_blocks = len(variations)
    found = row_losses(network, variations + (replacements(network) if pairs else []), rows, **options)
    tensors = {"loss": _mean(found, found.whole), **_with_errors("deleted", found, found.varied[:num_blocks])}
    if pairs:
        by_pair = _with_errors("pairs", found, found.varied[num_blocks:])
        tensors |= {name: values.view(num_blocks, num_blocks) for name, values in by_pair.items()}
    return tensors, int(found.num_tokens.sum())


def _rewound(
    initial: "PreTrainedModel",
    tuned: "PreTrainedModel",
    blocks: "list[int]",
    rows: "Sequence[Example]",
    options: "Mapping[str, Any]",
) -> "dict[str, Tensor]":
    import torch

    from tasks.core.study.importance import rewindings, row_losses

    found = row_losses(tuned, rewindings(tuned, initial, blocks), rows, **options)
    return {
        "tuned_loss": _mean(found, found.whole),
        "tuned_blocks": torch.tensor(blocks, dtype=torch.int64),
        **_with_errors("rewound", found, found.varied),
    }


def _mean(found: "RowLosses", losses: "Tensor") -> "Tensor":
    """Return the mean loss in nats per token, [1]."""
    return (losses.sum() / found.num_tokens.sum()).reshape(1)


def _with_errors(name: str, found: "RowLosses", varied: "Tensor") -> "dict[str, Tensor]":
    """Return the variations' losses [V], and standard errors of their differences to the model's loss, row by row."""
    import torch

    from tasks.core.evaluation.likelihoods import rate_with_error

    weights = found.num_tokens.tolist()
    errors = [rate_with_error(row.tolist(), weights)[1] or 0.0 for row in varied - found.whole]
    means = varied.sum(1) / found.num_tokens.sum()
    return {name: means, f"{name}_stderr": torch.tensor(errors, dtype=torch.float64)}


def _facts(tensors: "dict[str, Tensor]") -> ImportanceFacts:
    """Return the model's loss and perplexity, and the blocks whose deletion costs most and least."""
    from tasks.data.task_measure import perplexity

    added = tensors["deleted"] - tensors["loss"]
    tuned = float(tensors["tuned_loss"]) if "tuned_loss" in tensors else None
    facts: ImportanceFacts = {
        "loss": float(tensors["loss"]),
        "perplexity": perplexity(float(tensors["loss"])),
        "num_blocks": len(added),
        "most_important": int(added.argmax()),
        "least_important": int(added.argmin()),
        "num_helpful": int((added < 0).sum()),
        "largest_increase": float(added.max()),
        "smallest_increase": float(added.min()),
        "largest_perplexity": perplexity(float(tensors["deleted"].max())),
        "smallest_perplexity": perplexity(float(tensors["deleted"].min())),
    }
    if tuned is not None:
        facts |= {"tuned_loss": tuned, "tuned_perplexity": perplexity(tuned)}
    return facts
