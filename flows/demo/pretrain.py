"""Train the embedded model: `python -m flows.demo.pretrain --seed S --out FOLDER` (about ten minutes on one thread).

The model reads biographies of an invented world until it knows every fact. Whole blocks of the upper half are skipped
at random during training (stochastic depth), which makes the upper blocks redundant, as those of large models are.
Since this training causes the redundancy, the demo shows the mechanism and is not evidence about large models.
"""

import argparse
import copy
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from flows.demo.network import Network, NetworkSize, to_opt
from flows.demo.tokenizer import save_tokenizer
from flows.demo.world import END_OF_TEXT, PAD, Person, biography_tokens, make_people, recall_prompts, vocabulary

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NUM_TIMING_STEPS = 20
# The published final loss is the mean of the last steps: single batches scatter by 0.02.
NUM_FINAL_STEPS = 50

Report = dict[str, float | int | str]


@dataclass(frozen=True)
class Recipe:
    """The settings of training; the defaults are those of the shipped model."""

    num_steps: int = 2400
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    warmup_steps: int = 100
    constant_until: float = 0.6
    final_rate: float = 0.02
    deepest_drop: float = 0.6

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, constant, then linear decay to `final_rate` of the peak."""
        progress = step / self.num_steps
        decay = 1.0 if progress < self.constant_until else (1 - progress) / (1 - self.constant_until)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps) * max(self.final_rate, decay)

    def drop_probability(self, block: int, num_blocks: int) -> float:
        """Probability of skipping a block: 0 in the lower half, then rising linearly to that of the last block."""
        half = num_blocks // 2
        return self.deepest_drop * max(0.0, (block - half + 1) / half)


class Trainer:
    """Float32 master weights, updated with the gradients of a copy that computes in `precision`."""

    def __init__(self, size: NetworkSize, recipe: Recipe, seed: int, precision: str) -> None:
        torch.manual_seed(seed)
        self.recipe = recipe
        self.numbers = random.Random(f"training {seed}")
        self.master = Network(size)
        self.working = copy.deepcopy(self.master).to(PRECISIONS[precision])
        self.pairs = list(zip(self.master.parameters(), self.working.parameters(), strict=True))
        tokens = biography_tokens(make_people(seed), random.Random(f"biographies {seed}"))
        self.batches = _batches(tokens, recipe.batch_size, size.positions)
        masters = [master for master, _ in self.pairs]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in masters if p.dim() >= 2], "weight_decay": recipe.weight_decay},
                {"params": [p for p in masters if p.dim() < 2], "weight_decay": 0.0},
            ],
            betas=recipe.betas,
            fused=True,
        )

    def step(self, number: int) -> float:
        """Make one update; return the loss per token in nats."""
        ids_BT = next(self.batches)
        logits = self.working(ids_BT, self._blocks_of_this_step())[:, :-1].flatten(0, 1).float()
        loss = F.cross_entropy(logits, ids_BT[:, 1:].flatten())
        loss.backward()
        self._take_gradients()
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(number)
        self.optimizer.step()
        with torch.no_grad():
            for master, working in self.pairs:
                working.copy_(master)
        return loss.item()

    def _blocks_of_this_step(self) -> list[int]:
        num_blocks = self.master.size.blocks
        return [
            block
            for block in range(num_blocks)
            if self.numbers.random() >= self.recipe.drop_probability(block, num_blocks)
        ]

    def _take_gradients(self) -> None:
        """Move the gradients to the master weights and clip them; a skipped block has none and is not decayed."""
        present = []
        for master, working in self.pairs:
            master.grad = None if working.grad is None else working.grad.float()
            working.grad = None
            if master.grad is not None:
                present.append(master)
        nn.utils.clip_grad_norm_(present, self.recipe.clip_norm, error_if_nonfinite=True)


def _batches(tokens: Iterator[int], batch_size: int, num_positions: int) -> Iterator[Tensor]:
    """Yield token ids [batch_size, num_positions], cut from the stream without regard to the ends of biographies."""
    while True:
        yield torch.tensor(list(islice(tokens, batch_size * num_positions))).view(batch_size, num_positions)


def faster_precision(size: NetworkSize, recipe: Recipe, seed: int) -> str:
    """Return the precision whose steps are faster on this machine; bfloat16 is slow on processors without support."""
    seconds = {}
    for precision in PRECISIONS:
        trainer = Trainer(size, recipe, seed, precision)
        trainer.step(0)
        start = time.perf_counter()
        for number in range(1, NUM_TIMING_STEPS + 1):
            trainer.step(number)
        seconds[precision] = (time.perf_counter() - start) / NUM_TIMING_STEPS
    print("seconds per step:", {name: round(value, 3) for name, value in seconds.items()}, flush=True)
    return min(seconds, key=lambda name: seconds[name])


@torch.no_grad()
def recall(model: nn.Module, people: list[Person]) -> float:
    """Share of the people's facts that the model completes, over the whole vocabulary, in the pre-training format."""
    ids = vocabulary()
    by_length: dict[int, list[tuple[list[int], int]]] = {}
    for words, value in recall_prompts(people):
        by_length.setdefault(len(words), []).append(([ids[word] for word in words], ids[value]))
    num_right = num_prompts = 0
    for prompts in by_length.values():
        for first in range(0, len(prompts), 512):
            chunk = prompts[first : first + 512]
            logits = model(input_ids=torch.tensor([prompt for prompt, _ in chunk]), use_cache=False).logits[:, -1]
            num_right += int((logits.argmax(-1) == torch.tensor([value for _, value in chunk])).sum())
            num_prompts += len(chunk)
    return num_right / num_prompts


def save(network: Network, folder: Path) -> nn.Module:
    """Write model and tokenizer in the stock layout, with weights in float16; return the model as loaded again."""
    from transformers import AutoModelForCausalLM

    ids = vocabulary()
    model = to_opt(network, pad_id=ids[PAD], end_id=ids[END_OF_TEXT])
    model.half().save_pretrained(folder)
    # Half precision only saves space; with float32 in the config, a model loaded without a dtype computes in float32.
    model.config.dtype = torch.float32
    model.config.save_pretrained(folder)
    save_tokenizer(folder, network.size.positions)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def pretrain(
    seed: int, folder: Path, size: NetworkSize, recipe: Recipe, precision: str
) -> dict[str, float | int | str]:
    """Train on the world with this seed, write the model folder, and return the main numbers of its `training.json`."""
    if precision == "auto":
        precision = faster_precision(size, recipe, seed)
    trainer = Trainer(size, recipe, seed, precision)
    start, losses = time.perf_counter(), []
    progress = tqdm(range(recipe.num_steps), desc=f"pre-training, seed {seed}", disable=None)
    for number in progress:
        losses.append(trainer.step(number))
        if number % 20 == 0:
            progress.set_postfix(loss=f"{losses[-1]:.3f}")
        if (number + 1) % 200 == 0 and progress.disable:
            print(f"step {number + 1} loss {sum(losses[-200:]) / 200:.4f}", flush=True)
    minutes = (time.perf_counter() - start) / 60
    final = losses[-NUM_FINAL_STEPS:]
    model = save(trainer.master, folder)
    report: Report = {
        "seed": seed,
        "num_steps": recipe.num_steps,
        "num_tokens": recipe.num_steps * recipe.batch_size * size.positions,
        "final_loss": round(sum(final) / len(final), 4),
        "recall": round(recall(model, make_people(seed)), 4),
        "precision": precision,
        "minutes": round(minutes, 1),
    }
    text = json.dumps({**report, "recipe": asdict(recipe), "size": asdict(size)}, indent=2)
    (folder / "training.json").write_text(text + "\n", encoding="utf-8")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo's model on one invented world.")
    parser.add_argument("--seed", type=int, required=True, help="seed of the world and of the training")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the model and its tokenizer")
    parser.add_argument("--steps", type=int, default=Recipe.num_steps, help="number of updates (default: %(default)s)")
    parser.add_argument("--precision", choices=["auto", *PRECISIONS], default="auto", help="auto takes the faster one")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = NetworkSize(vocabulary=len(vocabulary()))
    recipe = Recipe(num_steps=arguments.steps)
    print(json.dumps(pretrain(arguments.seed, arguments.out, size, recipe, arguments.precision)))


if __name__ == "__main__":
    main()
