"""How the time of each stage grows with blocks, width, rows and vocabulary: no faster than its operations do."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.core.batching import Example
from tasks.core.blocks.surgery import with_layout
from tasks.core.capturing import capture_states
from tasks.core.cka import linear_cka
from tasks.core.clustering import adjacent_clusters
from tasks.core.evaluation.likelihoods import score_tokens
from tasks.core.plan.layout import fixed_plan
from tasks.core.tuning.settings import TrainSettings
from tasks.core.tuning.train import train
from tasks.core.tuning.trainable import TunedBlocks
from tests.bench.timing import fastest

TOKENS, CONTEXT = 32, 64
# What noise and the shapes of matrices add to a slope.
TOLERANCE = 0.25
Row = Callable[[str, str, str], None]


@dataclass(frozen=True)
class Size:
    """The sizes on which a stage depends."""

    blocks: int = 8
    width: int = 256
    rows: int = 64
    vocabulary: int = 4096


def model_of(size: Size) -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.blocks,
        num_attention_heads=4,
        vocab_size=size.vocabulary,
        max_position_embeddings=CONTEXT,
    )
    return LlamaForCausalLM(config).eval()


def examples(size: Size) -> list[Example]:
    ids = torch.randint(3, size.vocabulary, (size.rows, TOKENS), generator=torch.Generator().manual_seed(0)).tolist()
    return [Example(tuple(row[:-2]), tuple(row[-2:]), number) for number, row in enumerate(ids)]


def capture(size: Size) -> Callable[[], object]:
    model, rows = model_of(size), examples(size)
    return lambda: capture_states(model, rows, max_tokens=1024)


def similarity(size: Size) -> Callable[[], object]:
    states = torch.randn(size.blocks + 1, size.rows, size.width)
    return lambda: linear_cka(states)


def cluster(size: Size) -> Callable[[], object]:
    states = torch.randn(size.blocks + 1, 16, 16).cumsum(0)
    similar = linear_cka(states)
    return lambda: adjacent_clusters(similar, size.blocks // 2, "boundary")


def score(size: Size) -> Callable[[], object]:
    model = model_of(size)
    requests = [(row.prompt_ids, row.answer_ids) for row in examples(size)]
    return lambda: score_tokens(model, requests, CONTEXT, 1024)


def tune(size: Size) -> Callable[[], object]:
    plan = fixed_plan(size.blocks, range(size.blocks), (0, size.blocks - 1))
    trained, rows = TunedBlocks(with_layout(model_of(size), plan), plan), examples(size)
    settings = TrainSettings(learning_rate=1e-5, num_steps=size.rows // 16, batch_size=16, max_tokens=1024)
    return lambda: train(trained, rows, [], settings)


# Stage, what grows, its values, and the exponent of its operations.
CASES: dict[str, tuple[Callable[[Size], Callable[[], object]], str, Sequence[int], float]] = {
    "capture, blocks": (capture, "blocks", (4, 8, 16, 32), 1),
    "capture, width": (capture, "width", (128, 256, 512, 1024), 2),
    "capture, rows": (capture, "rows", (32, 64, 128, 256), 1),
    "capture, vocabulary": (capture, "vocabulary", (4096, 8192, 16384, 32768), 0),
    "similarity, blocks": (similarity, "blocks", (8, 16, 32, 64), 2),
    "similarity, width": (similarity, "width", (512, 1024, 2048, 4096), 1),
    "similarity, rows": (similarity, "rows", (64, 128, 256, 512), 2),
    "cluster, blocks": (cluster, "blocks", (16, 32, 64, 128), 1),
    "score, blocks": (score, "blocks", (4, 8, 16, 32), 1),
    "score, width": (score, "width", (128, 256, 512, 1024), 2),
    "score, rows": (score, "rows", (32, 64, 128, 256), 1),
    "score, vocabulary": (score, "vocabulary", (4096, 8192, 16384, 32768), 1),
    "tune, blocks": (tune, "blocks", (4, 8, 16, 32), 1),
    "tune, width": (tune, "width", (128, 256, 512, 1024), 2),
    "tune, rows": (tune, "rows", (32, 64, 128, 256), 1),
    "tune, vocabulary": (tune, "vocabulary", (4096, 8192, 16384, 32768), 1),
}


def slope(values: Sequence[int], seconds: Sequence[float]) -> float:
    """Least-squares exponent of the growth."""
    x, y = [math.log(value) for value in values], [math.log(each) for each in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)


@pytest.mark.bench
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", CASES)
def test_growth(case: str, row: Row) -> None:
    torch.set_num_threads(1)
    stage, axis, values, exponent = CASES[case]
    seconds = [fastest(stage(replace(Size(), **{axis: value}))) for value in values]
    found = slope(values, seconds)
    shown = ", ".join(f"{1000 * each:.0f}" for each in seconds)
    row(f"growth of {case} {', '.join(map(str, values))}: {shown} ms", f"{found:.2f}", f"<= {exponent + TOLERANCE:.2f}")
    assert found <= exponent + TOLERANCE
