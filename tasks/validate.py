"""Validate: compute the loss of a model on the validation split, by which choices may be made."""

from tasks.artifacts.validation_loss import ValidationLoss, write_loss
from tasks.data.sources import TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref


@stage(packages=("torch", "transformers", "tokenizers", "lm_eval"), gpu=True)
def validate(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    emulator: Ref | None = None,
    tuned: Ref | None = None,
    *,
    precision: str = "float32",
    max_tokens: int = 8192,
) -> ValidationLoss:
    """Compute the mean negative log-likelihood of validation rows' answer tokens in nats; never read the scored split.

    emulator: validate it instead of the full model. tuned: blocks to put into the full model or the emulator.
    precision: number format of the computation; max_tokens: padded tokens in one forward pass. Writes
    `tasks.artifacts.validation_loss.ValidationLoss`.

    Raises:
        InputError: as `open_variant`.
    """
    from tasks.core.blocks.soft_prompt import prompt_ids
    from tasks.core.evaluation.likelihoods import rate_with_error, score_tokens
    from tasks.data.tokenize import load_examples
    from tasks.models.loading import load_tokenizer
    from tasks.models.variants import open_variant

    emulator_folder, tuned_folder = (work.open(ref) if ref else None for ref in (emulator, tuned))
    max_tokens = work.pass_tokens(max_tokens, "evaluate.max_tokens")
    with open_variant(model, emulator_folder, tuned_folder, precision, *work.place) as (variant, tensors):
        room = model.context - len(prompt_ids(variant))
        examples = load_examples(task, "validation", load_tokenizer(model), room)
        requests = [(row.prompt_ids, row.answer_ids) for row in examples.rows]
        scored = score_tokens(variant, requests, model.context, max_tokens, work.progress, tensors=tensors)
    weights = [len(row.answer_ids) for row in examples.rows]
    loss, stderr = rate_with_error([-likelihood for likelihood, _ in scored], weights)
    found: ValidationLoss = {
        "loss": loss,
        "stderr": stderr,
        "num_tokens": sum(weights),
        "num_rows": examples.num_rows,
        "validation_digest": examples.digest,
    }
    write_loss(work.out, found)
    work.metric(None, validation_loss=loss)
    return found
