"""Tuning methods: which tensors are trained, and how; torch is not imported, so that settings load without it."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal, get_args

from tasks.core.bounds import Bounds, Count, check_fields
from tasks.core.errors import InputError, SettingError, in_table
from tasks.core.plan.layout import Plan

MethodName = Literal["blocks", "lora", "adapter", "bitfit", "prompt"]
TrainedBlocks = Literal["tuned", "frozen", "all"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
# The methods whose results change blocks, so that the change can be limited.
LIMITED: tuple[MethodName, ...] = ("blocks", "lora", "bitfit")
# The settings that only one method uses.
OWN = {
    "lora": ("lora_rank", "lora_alpha", "lora_dropout"),
    "adapter": ("adapter_size",),
    "prompt": ("prompt_tokens",),
}


@dataclass(frozen=True)
class MethodOptions:
    """Options of a tuning method, as a user may set them."""

    method: MethodName = "blocks"
    """Trained part: whole blocks, low-rank factors, a bottleneck behind each block, biases, or a soft prompt."""
    trained: TrainedBlocks = "tuned"
    """Which blocks of the emulator are trained; frozen ones stay with it, only tuned ones are plugged in."""
    lm_head: bool = False
    """Train the language-model head too; a head that is tied to the embeddings becomes a separate copy."""
    freeze_bottom: bool = False
    """Keep the initial weights of tuned blocks in the lower half of the full model's stack."""
    lora_rank: Count = 4
    """Rank of LoRA's factors."""
    lora_alpha: Count = 32
    """LoRA adds alpha / rank times the product of its factors."""
    lora_dropout: Annotated[float, Bounds(ge=0, lt=1)] = 0.1
    """Dropout probability of LoRA's inputs in training."""
    adapter_size: Count = 64
    """Width of a bottleneck adapter."""
    prompt_tokens: Count = 20
    """Virtual tokens of a soft prompt."""


@dataclass(frozen=True)
class TuningMethod(MethodOptions):
    """Tuning method: which tensors of an emulator are trained, and how.

    method: "blocks" trains whole blocks, "lora" low-rank factors of all their linear modules (Hu et al. 2021),
    "adapter" a bottleneck behind each block (Houlsby et al. 2019, Pfeiffer et al. 2020), "bitfit" only biases (Zaken et
    al. 2021), "prompt" no block, but virtual tokens in front of every row (Lester et al. 2021).
    trained: in the "tuned" blocks, in the "frozen" kept blocks (and their repetitions), or in "all" kept blocks.
    freeze_bottom: tuned blocks of index i < num_blocks / 2 keep their initial weights.

    Raises:
        SettingError: when a value is unknown or out of range, freeze_bottom is set with trained = "frozen", or
            method "prompt" is combined with `trained`, `lm_head` or `freeze_bottom`.
    """

    def __post_init__(self) -> None:
        check_fields(self)
        if self.freeze_bottom and self.trained == "frozen":
            raise SettingError('`freeze_bottom` has no effect with `trained` = "frozen": use "tuned" or "all"')
        if self.method == "prompt" and (self.trained != "tuned" or self.lm_head or self.freeze_bottom):
            raise SettingError(
                '`method` = "prompt" trains no block and no head: leave `trained`, `lm_head` and `freeze_bottom` out'
            )

    @property
    def is_default(self) -> bool:
        """Whether whole tuned blocks are trained, and nothing else."""
        return self.cache_view() == TuningMethod().cache_view()

    @property
    def num_virtual(self) -> int:
        """Number of virtual tokens in front of every row."""
        return self.prompt_tokens if self.method == "prompt" else 0

    @property
    def admitted(self) -> "TuningMethod":
        """The method after validation and merging: adapters and prompts stay, everything else becomes whole blocks."""
        if self.method == "prompt":
            return self
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
        if self.trained == "frozen" or self.method == "prompt":
            return []
        return [index for index in sorted(plan.tuned) if not (self.freeze_bottom and 2 * index < plan.num_blocks)]

    def frozen_sources(self, plan: Plan) -> list[int]:
        """Return the frozen kept blocks if they are trained; they stay with the emulator."""
        return [] if self.trained == "tuned" else sorted(set(plan.kept) - set(plan.tuned))

    def require_something(self, plan: Plan) -> None:
        """Check that the plan has the blocks that the method trains.

        Raises:
            SettingError: when nothing is left to train, or there are no frozen blocks to train.
        """
        if self.trained != "tuned" and not self.frozen_sources(plan):
            raise SettingError(
                f'`trained` = "{self.trained}", but every kept block is tuned: there is no frozen one; use "tuned",'
                " or keep more blocks than are tuned"
            )
        if self.freeze_bottom and not self.returned_sources(plan) and self.trained == "tuned" and not self.lm_head:
            raise SettingError(
                f"`freeze_bottom` leaves nothing to train: all tuned blocks {sorted(plan.tuned)} lie in the lower"
                f" half of {plan.num_blocks}; choose others, or set `lm_head`"
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
        kinds = {field.name: type(field.default) for field in fields(TuningMethod)}
        if not isinstance(values, dict) or values.keys() - kinds.keys() or not values.keys() >= {"method", "trained"}:
            raise InputError(f"variant: expected an object with method, trained and some of {', '.join(kinds)}")
        for name, value in values.items():
            allowed = (float, int) if kinds[name] is float else (kinds[name],)
            if type(value) not in allowed:
                raise InputError(f"variant: {name} must be a {allowed[0].__name__}, not {value!r}")
        with in_table("variant"):
            return TuningMethod(**values)


WHOLE_BLOCKS = TuningMethod()


def require_limitable(variant: TuningMethod) -> None:
    """Check that a tuning method changes blocks, and nothing else that is returned.

    Raises:
        SettingError: when it does not.
    """
    if variant.method not in LIMITED or variant.lm_head:
        what = "`lm_head`" if variant.lm_head else f'`method` = "{variant.method}"'
        raise SettingError(
            f"`max_change` with {what}: it limits changes of blocks; choose `method` from {', '.join(LIMITED)}, and"
            " leave `lm_head` out"
        )
