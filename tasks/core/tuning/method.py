"""Tuning methods: which tensors are trained, and how; torch is not imported, so that settings load without it."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from tasks.core.errors import InputError
from tasks.core.plan.layout import Plan

METHODS = ("blocks", "lora", "adapter", "bitfit")
TRAINED = ("tuned", "frozen", "all")
# The settings that only one method uses.
OWN = {"lora": ("lora_rank", "lora_alpha", "lora_dropout"), "adapter": ("adapter_size",)}


@dataclass(frozen=True)
class TuningMethod:
    """Tuning method: which tensors of an emulator are trained, and how.

    method: "blocks" trains whole blocks, "lora" low-rank factors of all their linear modules (Hu et al. 2021),
    "adapter" a bottleneck behind each block (Houlsby et al. 2019, Pfeiffer et al. 2020), "bitfit" only biases (Zaken et
    al. 2021).
    trained: in the "tuned" blocks, in the "frozen" kept blocks (and their repetitions), or in "all" kept blocks.
    lm_head: also train the language-model head; when it is tied to the embeddings, a copy is trained.
    freeze_bottom: tuned blocks of index i < num_blocks / 2 keep their initial weights.
    lora_dropout: a probability; adapter_size: the width of the bottleneck.

    Raises:
        InputError: when a value is unknown or out of range, or freeze_bottom is set with trained = "frozen".
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
        """Whether whole tuned blocks are trained, and nothing else."""
        return self.cache_view() == TuningMethod().cache_view()

    @property
    def admitted(self) -> "TuningMethod":
        """The method after validation and merging: adapters stay modules, everything else becomes whole blocks."""
        if self.method == "adapter":
            return TuningMethod(
                "adapter", self.trained, self.lm_head, self.freeze_bottom, adapter_size=self.adapter_size
            )
        return TuningMethod(lm_head=self.lm_head)

    def cache_view(self) -> dict[str, Any]:
        """Settings that decide the result, without those that only other methods use."""
        others = {name for method, names in OWN.items() if method != self.method for name in names}
        return {name: value for name, value in asdict(self).items() if name not in others}

    def returned_sources(self, plan: Plan) -> list[int]:
        """Return the tuned blocks whose tensors are trained and returned to the model owner."""
        if self.trained == "frozen":
            return []
        return [index for index in sorted(plan.tuned) if not (self.freeze_bottom and 2 * index < plan.num_blocks)]

    def frozen_sources(self, plan: Plan) -> list[int]:
        """Return the frozen kept blocks if they are trained; they stay with the emulator."""
        return [] if self.trained == "tuned" else sorted(set(plan.kept) - set(plan.tuned))

    def require_something(self, plan: Plan) -> None:
        """Check that the plan has the blocks that the method trains.

        Raises:
            InputError: when nothing is left to train, or there are no frozen blocks to train.
        """
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
        """Serialise the settings that decide the result, for `from_json`."""
        return json.dumps(self.cache_view(), indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> "TuningMethod":
        """Read a method that `to_json` wrote.

        Raises:
            InputError: when the text is not valid JSON, or a field is missing, unknown or of the wrong type.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise InputError(f"variant: not valid JSON: {error}") from error
        kinds = {field.name: field.type for field in fields(TuningMethod)}
        if not isinstance(values, dict) or values.keys() - kinds.keys() or not values.keys() >= {"method", "trained"}:
            raise InputError(f"variant: expected an object with method, trained and some of {', '.join(kinds)}")
        for name, value in values.items():
            allowed: tuple[type, ...] = (float, int) if kinds[name] is float else (kinds[name],)  # type: ignore[assignment]
            if type(value) not in allowed:
                raise InputError(f"variant: {name} must be a {allowed[0].__name__}, not {value!r}")
        return TuningMethod(**values)


WHOLE_BLOCKS = TuningMethod()
