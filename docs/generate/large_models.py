"""Write the table of what large models need, from the formulas of `crash plan-cost`.

`python -m docs.generate.large_models docs/how-to/cost.md` makes the part between the two markers anew.
"""

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers.models.llama import LlamaConfig

from docs.generate.markers import replace_between
from flows.cost.command import UTILISATION, choose_device
from flows.cost.estimates import estimate_cells
from flows.cost.needs import streamed_need, whole_need
from flows.cost.priced import Cost, Sizes
from flows.settings.run import Settings
from tasks.engine.memory import Need
from tasks.reports.table import Table

BEGIN, END = "<!-- large models: begin (make readme) -->", "<!-- large models: end -->"
GPU_BYTES = 80e9
NUM_GPUS = (1, 8, 64)
PARALLEL = "sharded"
HEADER = ["model", "GPUs", "capture", "scoring the full model", "tuning the emulator", "minutes"]


@dataclass(frozen=True)
class LlamaSizes:
    """Published sizes of a LLaMA, named as in its config.json."""

    name: str
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int

    def write_config(self, folder: Path) -> None:
        """Write the config.json, which is all that an estimate needs."""
        sizes = {name: value for name, value in asdict(self).items() if name != "name"}
        config = LlamaConfig(**sizes, max_position_embeddings=4096, tie_word_embeddings=False, dtype="bfloat16")
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config.to_dict() | {"architectures": ["LlamaForCausalLM"]}))


MODELS = (
    LlamaSizes("LLaMA 2 7B", 32, 4096, 11008, 32, 32, 32000),
    LlamaSizes("Llama 3.1 70B", 80, 8192, 28672, 64, 8, 128256),
    LlamaSizes("Llama 3.1 405B", 126, 16384, 53248, 128, 8, 128256),
)


def settings(model: LlamaSizes, folder: Path) -> Settings:
    """RACE, one epoch, two thirds of the blocks kept, four of them tuned."""
    values = {
        "model": {"name": str(folder), "precision": "bfloat16"},
        "task": {"name": "race"},
        "strategy": ["uniform"],
        "plan": {"num_kept": model.num_hidden_layers * 2 // 3, "num_tuned": 4},
        "tune": {"num_epochs": 1},
        "full_tune": {"enabled": False},
    }
    return Settings.model_validate(values)


def rows(model: LlamaSizes, folder: Path) -> list[list[str]]:
    """A row for each number of GPUs. Minutes are given where every stage runs on all of them."""
    model.write_config(folder)
    estimate = estimate_cells([({}, settings(model, folder))])
    names = ("capture", "evaluate · full", "tune · uniform, seed 0")
    hours = choose_device(None, None, UTILISATION).hours(
        sum(cost.flops for cost in estimate.stages.values() if cost.on_gpu)
    )
    found = []
    for count in NUM_GPUS:
        needed = [estimate.by_name[name] for name in names]
        whole = all(fits(whole_need(*each, count, PARALLEL), count) for each in needed)
        minutes = f"{60 * hours / count:.1f}" if whole else ""
        found.append([model.name, str(count), *(describe_memory(*each, count) for each in needed), minutes])
    return found


def fits(need: Need, count: int) -> bool:
    """Whether so many GPUs have the memory."""
    return need.gpu <= count * GPU_BYTES


def describe_memory(cost: Cost, sizes: Sizes, count: int) -> str:
    """Describe the memory of a stage on each of its GPUs, and the main memory where blocks are loaded one at a time."""
    whole, streamed = (way(cost, sizes, count, PARALLEL) for way in (whole_need, streamed_need))
    assert whole is not None
    if fits(whole, count):
        return _gigabytes(whole.gpu / count)
    if streamed is not None and fits(streamed, count):
        return f"{_gigabytes(streamed.gpu / count)} on one, {_gigabytes(streamed.main)} of main memory"
    return f"does not fit ({_gigabytes(whole.gpu / count)})"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.0f} GB"


def table() -> str:
    """The table as Markdown."""
    with tempfile.TemporaryDirectory() as scratch:
        made = [row for place, model in enumerate(MODELS) for row in rows(model, Path(scratch) / str(place))]
    return Table(HEADER, made, num_names=1).markdown()


def updated(text: str) -> str:
    """The page with its table made anew."""
    return replace_between(text, BEGIN, END, table())


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(updated(page.read_text()))
