"""The cost of published implementations, re-created from their description: the yardstick of our own speed.

Every row is padded to the longest of the data set, logits are computed at every position, numbers are float32, and
AdamW updates one tensor after another.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tasks.core.batching import IGNORED, Example, lengths_of, training_batch
from tasks.core.tuning.schedule import learning_rate_factor
from tasks.core.tuning.settings import TrainSettings

CAPTURED_TOGETHER = 16


def padded(rows: Sequence[Example], longest: int) -> dict[str, Tensor]:
    """The model's inputs, [B, longest] each; labels are the answers."""
    inputs = {name: torch.full((len(rows), longest), fill) for name, fill in (("input_ids", 0), ("labels", IGNORED))}
    inputs["attention_mask"] = torch.zeros(len(rows), longest, dtype=torch.long)
    for place, row in enumerate(rows):
        ids = torch.tensor((*row.prompt_ids, *row.answer_ids))
        inputs["input_ids"][place, : len(ids)] = ids
        inputs["attention_mask"][place, : len(ids)] = 1
        inputs["labels"][place, len(row.prompt_ids) : len(ids)] = ids[len(row.prompt_ids) :]
    return inputs


@torch.no_grad()
def capture(model: PreTrainedModel, rows: Sequence[Example]) -> Tensor:
    """Means of all states over the tokens of each row, [N+1, rows, width]."""
    model.eval()
    longest, found = max(lengths_of(rows)), []
    for begin in range(0, len(rows), CAPTURED_TOGETHER):
        batch = padded(rows[begin : begin + CAPTURED_TOGETHER], longest)
        mask = batch["attention_mask"]
        states = model(batch["input_ids"], attention_mask=mask, output_hidden_states=True).hidden_states
        weights = (mask / mask.sum(1, keepdim=True))[:, :, None]
        found.append(torch.stack([(state * weights).sum(1) for state in states]))
    return torch.cat(found, dim=1)


def tune(
    model: PreTrainedModel, trained: Sequence[torch.nn.Parameter], rows: Sequence[Example], settings: TrainSettings
) -> tuple[list[float], list[float]]:
    """Train some parameters of an emulator; return the loss and the seconds of each step."""
    model.requires_grad_(False).train()
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        trained, settings.learning_rate, settings.betas, weight_decay=settings.weight_decay, foreach=False, fused=False
    )
    longest, losses, seconds = max(lengths_of(rows)), [], []
    assert settings.num_steps is not None
    for step in range(settings.num_steps):
        began = time.perf_counter()
        batch = [rows[index] for index in training_batch(len(rows), settings.batch_size, settings.seed, step)]
        loss = model(**padded(batch, longest), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(settings, step, settings.num_steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        seconds.append(time.perf_counter() - began)
    return losses, seconds
