"""Which tensors a tuning trains, and how; no torch here, so that settings can be read without it."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from tasks.core.errors import InputError
from tasks.core.plan.layout import Plan

METHODS = ("blocks", "lora", "adapter", "bitfit")
TRAINED = ("tuned", "frozen", "all")
# What only one method looks at.
OWN = {"lora": ("lora_rank", "lora_alpha", "lora_dropout"), "adapter": ("adapter_size",)}


@dataclass(frozen=True)
class Variant:
    """What is trained of an emulator, and how.

    method: "blocks" whole blocks, "lora" low-rank factors of all their linear modules (Hu et al. 2021), "adapter" a
    bottleneck behind each block (Houlsby et al. 2019, Pfeiffer et al. 2020), "bitfit" biases only (Zaken et al. 2021).
    trained: in the "tuned" blocks, in the "frozen" ones that are kept (repetitions follow), or in "all" of both.
    lm_head: the language-model head too; where it is tied to the embeddings a copy of its own is trained.
    freeze_bottom: tuned blocks of index i < num_blocks / 2 keep their initial weights.
    lora_dropout is a probability; adapter_size the width of the bottleneck.
    """

    method: str = "blocks"
    trained: str = "tuned"
    lm_head: bool = False
    freeze_bottom: bool = False
    lora_rank: int = 4
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    adapter_size: int = 64

    def __post_init__(self) -> None:
        for name, choices in (("method", METHODS), ("trained", TRAINED)):
            if (value := getattr(self, name)) not in choices:
                raise InputError(f"tune.{name} = {value!r}; choose from {', '.join(choices)}")
        for name in ("lora_rank", "lora_alpha", "adapter_size"):
            if not (value := getattr(self, name)) > 0:
                raise InputError(f"tune.{name} = {value}; it must be larger than 0")
        if not 0 <= self.lora_dropout < 1:
            raise InputError(f"tune.lora_dropout = {self.lora_dropout}; it must be at least 0 and less than 1")
        if self.freeze_bottom and self.trained == "frozen":
            raise InputError('tune.freeze_bottom is about tuned blocks, of which tune.trained = "frozen" trains none')

    @property
    def is_default(self) -> bool:
        """Whether it is whole tuned blocks and nothing else."""
        return self.cache_view() == Variant().cache_view()

    @property
    def admitted(self) -> "Variant":
        """What it is once it was checked and merged: adapters stay modules, all else becomes whole blocks."""
        if self.method == "adapter":
            return Variant("adapter", self.trained, self.lm_head, self.freeze_bottom, adapter_size=self.adapter_size)
        return Variant(lm_head=self.lm_head)

    def cache_view(self) -> dict[str, Any]:
        """What decides the result: nothing that only another method looks at."""
        others = {name for method, names in OWN.items() if method != self.method for name in names}
        return {name: value for name, value in asdict(self).items() if name not in others}

    def returned_sources(self, plan: Plan) -> list[int]:
        """The tuned blocks whose tensors are trained, and returned to the owner of the model."""
        if self.trained == "frozen":
            return []
        return [index for index in sorted(plan.tuned) if not (self.freeze_bottom and 2 * index < plan.num_blocks)]

    def frozen_sources(self, plan: Plan) -> list[int]:
        """The kept blocks that are not tuned, where they are trained: they stay with the emulator."""
        return [] if self.trained == "tuned" else sorted(set(plan.kept) - set(plan.tuned))

    def require_something(self, plan: Plan) -> None:
        """InputError where the plan leaves nothing to train, or not what was asked for."""
        if self.trained != "tuned" and not self.frozen_sources(plan):
            raise InputError(
                f'tune.trained = "{self.trained}", but every kept block is tuned: there is no frozen one; use "tuned",'
                " or keep more blocks than are tuned"
            )
        if self.freeze_bottom and not self.returned_sources(plan) and self.trained == "tuned" and not self.lm_head:
            raise InputError(
                f"tune.freeze_bottom leaves nothing to train: all tuned blocks {sorted(plan.tuned)} lie in the lower"
                f" half of {plan.num_blocks}; choose others, or set tune.lm_head"
            )

    def to_json(self) -> str:
        """What `from_json` reads: the fields that matter."""
        return json.dumps(self.cache_view(), indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> "Variant":
        """InputError for anything but what `to_json` writes."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise InputError(f"variant: not valid JSON: {error}") from error
        kinds = {field.name: field.type for field in fields(Variant)}
        if not isinstance(values, dict) or values.keys() - kinds.keys() or not values.keys() >= {"method", "trained"}:
            raise InputError(f"variant: expected an object with method, trained and some of {', '.join(kinds)}")
        for name, value in values.items():
            allowed: tuple[type, ...] = (float, int) if kinds[name] is float else (kinds[name],)  # type: ignore[assignment]
            if type(value) not in allowed:
                raise InputError(f"variant: {name} must be a {allowed[0].__name__}, not {value!r}")
        return Variant(**values)


WHOLE_BLOCKS = Variant()
