"""Capture: run the support set through the full model once and pool every block's output."""

from tasks.artifacts.states import StatesSummary, write_states
from tasks.data.sources import Split, TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource


@stage(packages=("torch", "transformers", "tokenizers", "lm_eval"), cores="all", gpu=True)
def capture(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    *,
    num_rows: int,
    split: Split,
    part: str,
    pooling: str,
    final_norm: bool,
    max_tokens: int,
    precision: str,
) -> StatesSummary:
    """Capture the pooled states of the first `num_rows` examples after the embeddings and after every block.

    Writes `tasks.artifacts.states.States`.

    Raises:
        InputError: when a state is not finite, or as `open_model`.
    """
    import torch

    from tasks.core.capturing import capture_states
    from tasks.data.tokenize import load_examples
    from tasks.models.loading import load_tokenizer
    from tasks.models.streamed import open_model

    tokenizer = load_tokenizer(model)
    examples = load_examples(task, split, tokenizer, model.context, limit=num_rows, part=part)
    with open_model(model, precision, *work.place) as (network, stored):
        states = capture_states(
            network,
            examples.rows[:num_rows],
            pooling=pooling,
            with_final_norm=final_norm,
            max_tokens=work.pass_tokens(max_tokens, "support.max_tokens"),
            pad_id=tokenizer.pad_token_id or 0,
            progress=lambda parts: work.progress(parts, "batches" if stored is None else "blocks"),
            tensors=stored,
        )
    tensors = {"states": states.pooled, "last": states.last, "block_influence": states.block_influence}
    write_states(work.out, tensors)
    num_states, rows, width = states.pooled.shape
    return {
        "num_blocks": num_states - 1,
        "num_rows": rows,
        "width": width,
        "num_truncated": examples.num_truncated,
        "num_tokens": states.num_tokens,
        "num_threads": torch.get_num_threads(),
    }
