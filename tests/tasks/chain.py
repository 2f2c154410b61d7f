"""The stages before and around a tuning, on a tiny random model with the demo's tokenizer and questions."""

import shutil
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

from tasks.artifacts.plan import read_plan
from tasks.capture import capture
from tasks.cluster import cluster
from tasks.core.blocks.soft_prompt import prompt_ids
from tasks.core.plan.layout import Plan
from tasks.core.tuning.settings import TrainSettings
from tasks.data.resolving import resolve_task
from tasks.data.sources import TaskSource
from tasks.emulate import emulate
from tasks.engine.runtime import Runtime, shared
from tasks.models.resolving import resolve_model
from tasks.models.source import ModelSource
from tasks.similarity import similarity
from tasks.store.artifacts import Ref, Store
from tasks.tune import tune
from tests.places import DEMO

NUM_BLOCKS, WIDTH, VOCABULARY = 6, 32, 321
NUM_ROWS = 12
IDS = torch.arange(4, 24).unsqueeze(0)
SUPPORT: dict[str, Any] = {
    "num_rows": NUM_ROWS,
    "split": "train",
    "part": "prompt+answer",
    "pooling": "mean_weighted",
    "final_norm": False,
    "max_tokens": 256,
    "precision": "float32",
}
CRASH: dict[str, Any] = {
    "strategy": "crash",
    "num_blocks": NUM_BLOCKS,
    "estimator": "linear_cka",
    "num_kept": 4,
    "num_tuned": 2,
    "linkage": "boundary",
    "share": "all",
    "keep_ends": False,
}
SETTINGS = TrainSettings(learning_rate=1e-3, num_steps=6, batch_size=4, checkpoint_steps=2)


def write_model(
    folder: Path, dtype: torch.dtype = torch.float32, shard: str = "50GB", **config: Any
) -> tuple[PreTrainedModel, ModelSource]:
    """A random OPT, saved in `folder`. Its weights are larger than at initialisation, so that every block matters."""
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "word_embed_proj_dim": WIDTH, "ffn_dim": 48, "num_attention_heads": 4}
    fixed = {"num_hidden_layers": NUM_BLOCKS, "vocab_size": VOCABULARY, "max_position_embeddings": 64, "dropout": 0.0}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "init_std": 0.2}
    model = OPTForCausalLM(OPTConfig(**sizes | fixed | special | config)).eval().to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    for file in (DEMO / "model").glob("tokenizer*"):
        shutil.copy(file, folder)
    return model, resolve_model(str(folder))


def people(**limits: int) -> TaskSource:
    """The demo's task, the first rows of each split."""
    counts = {"num_train": NUM_ROWS, "num_validation": 6, "num_test": 6}
    return resolve_task({"name": "people", "data": str(DEMO / "task"), **counts, **limits})


def plain(folder: Path) -> PreTrainedModel:
    """A model folder as anybody loads it, without this project."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    """[1, 20, vocabulary] of fixed tokens, behind the model's soft prompt where it has one."""
    prompt = torch.tensor([prompt_ids(model)], dtype=torch.long)
    return model(torch.cat([prompt, IDS], 1)).logits[:, prompt.shape[1] :]


class Chain:
    """Stages in one store. What is asked for twice is found there, so a test asks for all that it needs."""

    def __init__(self, folder: Path, **model: Any) -> None:
        self.runtime = Runtime(store=str(folder / "store"), run_id=str(folder))
        self.store = Store(Path(self.runtime.store))
        self.full, self.model = write_model(folder / "model", **model)
        self.task = people()

    def saved(self, name: str) -> ModelSource:
        """The model as it is in memory now, in a folder of that name."""
        folder = self.store.root.parent / name
        self.full.save_pretrained(folder)
        for file in (DEMO / "model").glob("tokenizer*"):
            shutil.copy(file, folder)
        return resolve_model(str(folder))

    def make_idle(self, *blocks: int) -> None:
        """Let blocks do nothing but add a constant to their input."""
        with torch.no_grad():
            for index in blocks:
                block = self.full.model.decoder.layers[index]
                block.self_attn.out_proj.weight.zero_()
                block.fc2.weight.zero_()
        self.model = self.saved("idle")

    @property
    def num_computed(self) -> int:
        """How often a stage was computed and not found."""
        return len(shared(self.runtime).computed)

    def num_artifacts(self, stage: str) -> int:
        """Artifacts of a stage that are in the store."""
        return len(list(self.store.root.glob(f"artifacts/{stage}/*")))

    def open(self, ref: Ref) -> Path:
        return self.store.open(ref)

    def tensors(self, ref: Ref, name: str) -> dict[str, torch.Tensor]:
        """A safetensors file of an artifact."""
        return load_file(self.open(ref) / f"{name}.safetensors")

    def read_plan(self, ref: Ref) -> Plan:
        return read_plan(self.open(ref))

    def capture(self, **changes: Any) -> Ref:
        return capture.run(self.runtime, **{"model": self.model, "task": self.task} | SUPPORT | changes)

    def cluster(self, **arguments: Any) -> Ref:
        return cluster.run(self.runtime, **arguments)

    @cached_property
    def similar(self) -> Ref:
        return similarity.run(self.runtime, states=self.capture(), estimator="linear_cka")

    @cached_property
    def plan(self) -> Ref:
        return self.cluster(**CRASH, similarity=self.similar)

    @cached_property
    def every(self) -> Ref:
        """The plan that keeps and tunes everything."""
        return self.cluster(strategy="full", num_blocks=NUM_BLOCKS)

    def emulate(self, plan: Ref) -> Ref:
        return emulate.run(self.runtime, model=self.model, plan=plan)

    def tuning(self, **changes: Any) -> dict[str, Any]:
        """Arguments of a tuning inside the emulator; changes to settings by name."""
        precision = changes.pop("precision", "float32")
        settings = replace(SETTINGS, **changes)
        emulator = self.emulate(self.plan)
        return {
            "task": self.task,
            "plan": self.plan,
            "emulator": emulator,
            "settings": settings,
            "precision": precision,
        }

    def tune(self, **changes: Any) -> Ref:
        return tune.run(self.runtime, **self.tuning(**changes))
