"""Laws that a family must satisfy for each operation, checked on a small model in evaluation mode.

Each law compares the result of the operation with plain forward passes of the unchanged model, one row at a time. A
check raises BrokenLawError when its law does not hold. Shapes: B rows, T tokens, d width, N blocks.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tasks.core.batching import Batch, Example, collate
from tasks.core.blocks.locate_blocks import get_blocks, require_rebuildable, text_config
from tasks.core.blocks.partial_passes import capture_blocks
from tasks.core.blocks.surgery import layout, plug_in, rearranged, tuned_state, with_layout
from tasks.core.errors import InputError
from tasks.core.evaluation.likelihoods import score_tokens
from tasks.core.families.plain_passes import (
    BrokenLawError,
    fingerprint,
    generated_by,
    logits_of,
    plain_states,
    require_close,
    require_equal,
    require_equal_gradients,
    row_loss,
    stepping_over,
)
from tasks.core.plan.layout import Plan, fixed_plan, full_plan
from tasks.core.stand_ins.residual_outputs import fold, residual_outputs
from tasks.core.study.lens import read_out
from tasks.core.tuning.losses import AnswerLoss

# The names under which families take and return their cache.
CACHES = ("past_key_values", "cache_params", "state")


@dataclass(frozen=True)
class Subject:
    """A small model in evaluation mode, and rows of token ids of different lengths."""

    model: Any
    rows: tuple[tuple[int, ...], ...]

    @property
    def examples(self) -> list[Example]:
        """The rows; the last three tokens of each are the answer."""
        return [Example(row[:-3], row[-3:], number) for number, row in enumerate(self.rows, start=1)]

    @property
    def batch(self) -> Batch:
        """All rows, padded on the right."""
        return collate(self.examples, 0)

    def plans(self, share: str | None = None) -> list[Plan]:
        """Make plans that remove every third block, every second block, and the others; one or two blocks are tuned.

        In a family with alternating kinds of block, two of the three plans keep blocks of one kind only.
        """
        every = range(len(get_blocks(self.model)))
        kept = [[index for index in every if index % 3 != 2], [*every[::2]], [*every[1::2]]]
        return [fixed_plan(len(every), each, each[:2] if len(each) > 2 else each[:1], share) for each in kept if each]


def check_capture(subject: Subject) -> None:
    """Check that captured states of padded rows are the inputs and outputs of the blocks for each row alone."""
    batch, width = subject.batch, text_config(subject.model.config).hidden_size
    with torch.no_grad(), capture_blocks(subject.model) as run:
        states = run(batch.input_ids, batch.attention_mask)
    for state in states:
        if state.dim() != 3 or state.shape[2] != width:
            raise BrokenLawError(f"a block's state has shape {list(state.shape)}, not [rows, tokens, {width}]")
    for number, row in enumerate(subject.rows):
        entered, left = plain_states(subject.model, row)
        for position, (before, after) in enumerate(zip(entered[1:], left[:-1], strict=True)):
            require_close(before, after, f"what leaves block {position} is not what enters the next one")
        for position, state in enumerate([entered[0], *left]):
            require_close(states[position][number, : len(row)], state, f"state {position} depends on the other rows")


def check_scoring(subject: Subject) -> None:
    """Check that log-likelihoods of answers are those of a separate pass of each row through the whole model.

    Each prompt has several answers, so that they share it where the family's cache allows that.
    """
    requests = [
        (each.prompt_ids, answer)
        for each in subject.examples
        for answer in (each.answer_ids, each.answer_ids[::-1], each.answer_ids[1:] + each.answer_ids[:1])
    ]
    scores = [score for score, _ in score_tokens(subject.model, requests, 64, 1024)]
    expected = [-float(row_loss(subject.model, (*before, *answer)).detach()) for before, answer in requests]
    require_close(torch.tensor(scores), torch.tensor(expected), "log-likelihoods differ from those of the plain model")


def check_surgery(subject: Subject) -> None:
    """Check that removing blocks equals skipping them, keeping all changes no bit, and the model is restored."""
    model, before = subject.model, fingerprint(subject.model)
    if number := getattr(text_config(model.config), "num_kv_shared_layers", None):
        raise BrokenLawError(f"its last {number} blocks use the keys and values of blocks before them")
    original = logits_of(model, subject.rows)
    num_blocks = len(get_blocks(model))
    require_equal(logits_of(with_layout(model, full_plan(num_blocks)), subject.rows), original, "keeping all blocks")
    for plan in subject.plans():
        with stepping_over(model, set(range(num_blocks)) - set(plan.kept)):
            expected = logits_of(model, subject.rows)
        require_close(
            logits_of(with_layout(model, plan), subject.rows), expected, "removing blocks is not stepping over them"
        )
        with layout(model, plan):
            require_close(
                logits_of(model, subject.rows), expected, "removing blocks in place is not stepping over them"
            )
        require_rebuildable(model.config, plan.kept)
    require_equal(logits_of(model, subject.rows), original, "putting the blocks back")
    if fingerprint(model) != before:
        raise BrokenLawError("the model is not restored after its blocks were removed")
    for index in range(num_blocks):
        if not logits_of(rearranged(model, [(index, False)]), subject.rows).isfinite().all():
            raise BrokenLawError(f"block {index} alone gives values that are not finite")


def check_cache(subject: Subject) -> None:
    """Check that a reduced model gives the same logits with and without cache, in one pass and token by token."""
    for plan in [*subject.plans(), *subject.plans("all")[:1]]:
        emulator = with_layout(subject.model, plan)
        expected = logits_of(emulator, subject.rows)
        require_close(
            logits_of(emulator, subject.rows, use_cache=True), expected, "the cache changes the logits of one pass"
        )
        ids = torch.tensor([subject.rows[0]])
        kept: dict[str, Any] = {}
        for position in range(ids.shape[1]):
            with torch.no_grad():
                output = emulator(ids[:, position : position + 1], use_cache=True, **kept)
            kept = {name: output[name] for name in CACHES if name in output}
            if not kept:
                break  # GPT has no cache
            if position < expected.shape[1]:
                require_close(
                    output.logits[0, -1], expected[0, position], "the cache changes the logits of later tokens"
                )


def check_sharing(subject: Subject) -> None:
    """Check that a block at two positions computes the same as two copies, and that running changes no weight."""
    emulator = with_layout(subject.model, subject.plans("all")[0])
    copied = copy.deepcopy(emulator)
    for position, block in enumerate(get_blocks(copied)):
        get_blocks(copied)[position] = copy.deepcopy(block)
    before = fingerprint(subject.model)
    for _ in range(2):
        shared, apart = logits_of(emulator, subject.rows), logits_of(copied, subject.rows)
        require_close(shared, apart, "a block at two positions is not the same as two copies of it")
    if fingerprint(subject.model) != before:
        raise BrokenLawError("running a model changes the weights that it shares")


def check_stand_ins(subject: Subject) -> None:
    """Check that a map folded into the last linear module of a block is the map behind this module."""
    width = text_config(subject.model.config).hidden_size
    try:
        paths = residual_outputs(subject.model)
    except InputError as error:
        raise BrokenLawError("no block's last linear module is added to its state unchanged") from error
    matrix = torch.eye(width) + 0.1 * torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    for index, path in enumerate(paths):
        model = copy.deepcopy(subject.model)
        block = get_blocks(model)[index]
        handle = block.get_submodule(path).register_forward_hook(lambda _, args, output: output @ matrix)
        expected = logits_of(model, subject.rows)
        handle.remove()
        fold(block, path, matrix)
        require_close(
            logits_of(model, subject.rows), expected, "a map behind a block cannot be folded into its weights"
        )


def check_tuning(subject: Subject) -> None:
    """Check the gradients and the plug-in of tuned blocks.

    Gradients reach only tuned blocks and are those of separate passes of the rows; plugging in replaces the blocks.
    """
    model, plan = subject.model, subject.plans()[0]
    emulator = with_layout(model, plan).train()
    plain = copy.deepcopy(emulator)
    summed, _ = AnswerLoss(emulator)(subject.batch)
    summed.backward()
    torch.stack([row_loss(plain, row) for row in subject.rows]).sum().backward()
    require_equal_gradients(emulator, plain)
    moved = [each for each in emulator.parameters() if each.grad is not None and bool(each.grad.any())]
    if not moved:
        raise BrokenLawError("no gradient reaches the tuned blocks")
    with torch.no_grad():
        for parameter in moved:
            parameter.add_(parameter.grad.sign(), alpha=0.01)
    expected = copy.deepcopy(model)
    for source in plan.tuned:
        get_blocks(expected)[source].load_state_dict(get_blocks(emulator)[plan.kept.index(source)].state_dict())
    plugged = plug_in(model, tuned_state(emulator.eval(), plan), plan)
    require_close(
        logits_of(plugged, subject.rows), logits_of(expected, subject.rows), "plugging in is not replacing the blocks"
    )


def check_lens(subject: Subject) -> None:
    """Check that the final norm and the head turn the last block's state into the model's logits."""
    read, batch = read_out(subject.model), subject.batch
    with torch.no_grad(), capture_blocks(subject.model) as run:
        last = run(batch.input_ids, batch.attention_mask)[-1]
    with torch.no_grad():
        for number, row in enumerate(subject.rows):
            expected = subject.model(torch.tensor([row]), use_cache=False).logits[0]
            require_close(read(last[number, : len(row)]), expected, "norm and head do not give the model's logits")


def check_generation(subject: Subject) -> None:
    """Check that greedy tokens after rows padded on the left are those of each row alone, without a cache."""
    for model in (subject.model, with_layout(subject.model, subject.plans()[0])):
        longest = max(map(len, subject.rows))
        ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in subject.rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in subject.rows])
        answers = generated_by(model, ids, mask, use_cache=True)
        for number, row in enumerate(subject.rows):
            alone = torch.tensor([row])
            if not torch.equal(answers[number], generated_by(model, alone, torch.ones_like(alone), use_cache=False)[0]):
                raise BrokenLawError("greedy tokens of a padded batch with the cache are not those of each row alone")


LAWS: dict[str, Callable[[Subject], None]] = {
    "capture": check_capture,
    "scoring": check_scoring,
    "surgery": check_surgery,
    "cache": check_cache,
    "sharing": check_sharing,
    "stand_ins": check_stand_ins,
    "tuning": check_tuning,
    "lens": check_lens,
    "generation": check_generation,
}
