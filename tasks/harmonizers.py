"""Harmonizers: train small networks that replace blocks, and find out which blocks matter most."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tasks.artifacts.harmonizers import HarmonizersSummary, Weights, write_harmonizers
from tasks.core.harmonizers.settings import Harmonizing
from tasks.data.sources import TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource

if TYPE_CHECKING:
    from torch import Tensor

SETTING = "harmonizers.max_tokens"


@stage(packages=("torch", "transformers", "tokenizers", "accelerate"), gpu=True)
def harmonizers(
    work: Work,
    model: ModelSource,
    text: TaskSource,
    *,
    how: Harmonizing,
    block: int,
    protected: tuple[int, ...],
    precision: str,
) -> dict:
    """Train a harmonizer for every block of the frozen full model that may be replaced, and all scores (ScaleOT).

    text: documents one after another, in windows of `block` tokens, or of the model's context if that is shorter; of
    its validation split, windows on which choices of blocks are compared. protected: blocks that are never replaced.
    One process computes, which spreads the model over all of its GPUs. Writes the files of
    `tasks.artifacts.harmonizers`.

    Raises:
        InputError: when fewer than two blocks can be replaced, or a split has no text.
        DivergedError: when a number is not finite.
    """
    from tasks.core.harmonizers.training import SCORES, TrainedHarmonizers
    from tasks.core.tuning.failures import Names
    from tasks.core.tuning.train import train
    from tasks.data.windows import load_windows
    from tasks.engine.usage import Usage
    from tasks.models.loading import load_model, load_tokenizer

    tokenizer, length = load_tokenizer(model), min(block, model.context)
    rows, compared = (load_windows(text, split, tokenizer, length) for split in ("train", "validation"))
    limit = work.pass_tokens(how.max_tokens, SETTING, how.batch_size * length)
    given: dict[str, Any] = {"rows": compared, "max_tokens": limit, "pad_id": tokenizer.pad_token_id or 0}
    network = load_model(model, "stored" if precision == "bfloat16" else precision)
    trained = TrainedHarmonizers(network, how, protected, **given, precision=precision)
    usage = Usage(work.device)
    result = train(
        trained,
        rows,
        [],
        replace(how.training, max_tokens=limit),
        device=work.device,
        precision=precision,
        pad_id=given["pad_id"],
        checkpoint=work.checkpoint(),
        on_metrics=lambda step, values: work.metric(step, **values, **usage.read()),
        should_stop=work.stop_requested,
        progress=lambda steps: work.progress(steps, "steps"),
        after_step=trained.after_step,
        names=Names("harmonizers.learning_rate", SETTING),
    )
    networks, scores = _networks(result.state), result.state[SCORES]
    write_harmonizers(work.out, networks, scores)
    facts: HarmonizersSummary = {
        "num_harmonizers": len(networks),
        "scores": [round(score, 4) for score in scores.tolist()],
        "num_rows": rows.num_rows,
        "num_windows": len(rows),
    }
    return {**result.summary(), **facts}


def _networks(state: "dict[str, Tensor]") -> dict[int, Weights]:
    """Return the harmonizers of a trained state, by block."""
    blocks = [int(name.partition(".")[0]) for name in state if name.endswith(".down")]
    return {block: Weights(state[f"{block}.down"], state[f"{block}.up"]) for block in blocks}
