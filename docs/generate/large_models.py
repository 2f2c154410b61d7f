"""Write the table of what large models need, from the formulas of `crash plan-cost`.

`python -m docs.generate.large_models docs/how-to/cost.md` makes the part between the two markers anew.
"""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from transformers.models.llama import LlamaConfig

from docs.generate.markers import made_anew
from flows.cost.command import UTILISATION, choose_device
from flows.cost.estimates import estimate_cells
from flows.cost.needs import streamed_need, whole_need
from flows.cost.priced import Cost, Sizes
from flows.settings.run import Settings
from tasks.reports.table import Table

BEGIN, END = "<!-- large models: begin (make readme) -->", "<!-- large models: end -->"
GPU_BYTES = 80e9
NUM_GPUS = (1, 8, 64)
HEADER = ["model", "GPUs", "capture", "scoring the full model", "tuning the emulator", "minutes"]


@dataclass(frozen=True)
class Published:
    """Published sizes of a LLaMA: blocks, width, inner width, heads of queries and of keys, and tokens known."""

    name: str
    num_blocks: int
    width: int
    inner: int
    heads: tuple[int, int]
    vocabulary: int

    def write_config(self, folder: Path) -> None:
        """Write the config.json, which is all that an estimate needs."""
        config = LlamaConfig(
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.num_blocks,
            num_attention_heads=self.heads[0],
            num_key_value_heads=self.heads[1],
            vocab_size=self.vocabulary,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
            dtype="bfloat16",
        )
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config.to_dict() | {"architectures": ["LlamaForCausalLM"]}))


MODELS = (
    Published("LLaMA 2 7B", 32, 4096, 11008, (32, 32), 32000),
    Published("Llama 3.1 70B", 80, 8192, 28672, (64, 8), 128256),
    Published("Llama 3.1 405B", 126, 16384, 53248, (128, 8), 128256),
)


def settings(model: Published, folder: Path) -> Settings:
    """RACE, one epoch, two thirds of the blocks kept, four of them tuned."""
    values = {
        "model": {"name": str(folder), "precision": "bfloat16"},
        "task": {"name": "race"},
        "strategy": ["uniform"],
        "plan": {"num_kept": model.num_blocks * 2 // 3, "num_tuned": 4},
        "tune": {"num_epochs": 1},
        "full_tune": {"enabled": False},
    }
    return Settings.model_validate(values)


def rows(model: Published, folder: Path) -> list[list[str]]:
    """A row for each number of GPUs."""
    model.write_config(folder)
    estimate = estimate_cells([({}, settings(model, folder))])
    stages = {cost.stage: (cost, sizes) for name, (cost, sizes) in estimate.by_name.items() if "emulator" not in name}
    device = choose_device(None, None, UTILISATION)
    hours = device.hours(sum(cost.flops for cost in estimate.stages.values() if cost.on_gpu))
    found = []
    for count in NUM_GPUS:
        cells = [memory(*stages[stage], count) for stage in ("capture", "evaluate", "tune")]
        found.append([model.name, str(count), *cells, f"{60 * hours / count:.1f}"])
    return found


def memory(cost: Cost, sizes: Sizes, count: int) -> str:
    """What the stage takes of GPUs of 80 GB: whole, with blocks loaded one at a time, or too much."""
    whole = whole_need(cost, sizes, count, "sharded").gpu
    if whole <= count * GPU_BYTES:
        return _gigabytes(whole)
    streamed = streamed_need(cost, sizes, count, "sharded")
    if streamed is not None and streamed.gpu <= count * GPU_BYTES:
        return f"{_gigabytes(streamed.gpu / count)}, block by block"
    return f"does not fit ({_gigabytes(whole)})"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.0f} GB"


def table() -> str:
    """The table as Markdown."""
    with tempfile.TemporaryDirectory() as scratch:
        made = [row for place, model in enumerate(MODELS) for row in rows(model, Path(scratch) / str(place))]
    return Table(HEADER, made, num_names=1).markdown()


def updated(text: str) -> str:
    """The page with its table made anew."""
    return made_anew(text, BEGIN, END, table())


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(updated(page.read_text()))
