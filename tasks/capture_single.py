"""Single: run every block alone on the embeddings of the support set, and pool its outputs."""

from tasks.artifacts.states import StatesSummary, write_states
from tasks.data.sources import Split, TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource


@stage(packages=("torch", "transformers", "tokenizers", "lm_eval"), cores="all", gpu=True)
def single(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    *,
    num_rows: int,
    split: Split,
    part: str,
    pooling: str,
    max_tokens: int,
    precision: str,
) -> StatesSummary:
    """Capture the pooled states of the first `num_rows` examples: the embeddings, and the output of each block on them.

    Writes `tasks.artifacts.states.States`, as `capture` does.

    Raises:
        InputError: when a state is not finite.
    """
    from tasks.core.study.states_of_variants import base_device, states_alone
    from tasks.data.tokenize import load_examples
    from tasks.models.loading import load_model, load_tokenizer

    tokenizer = load_tokenizer(model)
    examples = load_examples(task, split, tokenizer, model.context, limit=num_rows, part=part)
    states = states_alone(
        load_model(model, precision, base_device(work.device)),
        examples.rows[:num_rows],
        device=work.device,
        pooling=pooling,
        max_tokens=work.pass_tokens(max_tokens, "support.max_tokens"),
        pad_id=tokenizer.pad_token_id or 0,
        progress=lambda blocks: work.progress(blocks, "blocks"),
    )
    tensors = {"states": states.pooled, "last": states.last, "block_influence": states.block_influence}
    write_states(work.out, tensors)
    num_states, rows, width = states.pooled.shape
    return {"num_blocks": num_states - 1, "num_rows": rows, "width": width, "num_truncated": examples.num_truncated}
