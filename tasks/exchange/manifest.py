"""The manifests of bundles: what each field is and within which bounds; unknown fields are refused.

The file `manifest.json` is one JSON object, signed as it is. `docs/reference/exchange-format.md` describes it for other
readers.
"""

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.core.errors import RefusedError
from tasks.core.plan.layout import Sharing
from tasks.core.tuning.method import MethodName
from tasks.exchange.keys import NAME
from tasks.exchange.names import MANIFEST_FILE, MAX_FILES, is_allowed, max_bytes
from tasks.exchange.strict_json import parse_strictly

FORMAT: Literal["crash-flow bundle"] = "crash-flow bundle"
VERSION: Literal[1] = 1
MAX_BLOCKS = 1024
MAX_TENSORS = 16384
MAX_LIFE = timedelta(days=3660)

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Identity = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Count = Annotated[int, Field(ge=0, le=1 << 62)]
Index = Annotated[int, Field(ge=0, lt=MAX_BLOCKS)]
Size = Annotated[int, Field(ge=1, le=1 << 31)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
TensorName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", max_length=256)]
Words = Annotated[str, Field(pattern=r"^[ -~]*$", max_length=256)]
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Family = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Party(_Strict):
    """A party. name: for people; fingerprint: SHA-256 of its public key, which is what counts."""

    name: Name
    fingerprint: Digest


class FileFacts(_Strict):
    """Size in bytes, and SHA-256, of a file of the bundle."""

    size: Count
    sha256: Digest


class TensorFacts(_Strict):
    """Number format (safetensors' name of it) and shape of a tensor."""

    dtype: Literal["F32", "F16", "BF16"]
    shape: Annotated[tuple[Size, ...], Field(max_length=8, strict=False)]


class Header(_Strict):
    """The fields of every manifest.

    sequence: 1, 2, ... of all bundles of this kind from the sender to the recipient; files: all but the manifest and
    its signature; software: names of packages to their versions.
    """

    format: Literal["crash-flow bundle"] = FORMAT
    version: Literal[1] = VERSION
    id: Identity
    sequence: Annotated[int, Field(ge=1, le=1 << 31)]
    created: AwareDatetime
    expires: AwareDatetime
    sender: Party
    recipient: Party
    files: Annotated[dict[str, FileFacts], Field(max_length=MAX_FILES)]
    software: Annotated[dict[Words, Words], Field(max_length=16)]

    @model_validator(mode="after")
    def _in_bounds(self) -> "Header":
        if wrong := [name for name in self.files if not is_allowed(name) or name.startswith("manifest.")]:
            raise ValueError(f"files: {wrong[0][:64]!a} is not a name of the format")
        if wrong := [name for name, facts in self.files.items() if facts.size > max_bytes(name)]:
            raise ValueError(f"files: {wrong[0]} is larger than it may be")
        if not 2020 <= self.created.year < 9000:
            raise ValueError("created: not a date of this program")
        if not timedelta(0) < self.expires - self.created <= MAX_LIFE:
            raise ValueError(f"expires: not after created, or more than {MAX_LIFE.days} days after it")
        return self


class BaseModelFacts(_Strict):
    """The full model: its name for people, digests of its weights and its tokenizer, its blocks and parameters."""

    name: Words
    weights: Digest
    tokenizer: Digest
    num_blocks: Annotated[int, Field(ge=1, le=MAX_BLOCKS)]
    num_parameters: Count


class Architecture(_Strict):
    """From which the emulator's network is built: a family, and the fields of its config that `architecture` allows."""

    family: Family
    config: Annotated[dict[str, Any], Field(max_length=256)]


class PlanFacts(_Strict):
    """Which blocks of the full model are there, which of them are tuned, and which stand in for removed ones."""

    kept: Annotated[tuple[Index, ...], Field(min_length=1, max_length=MAX_BLOCKS, strict=False)]
    tuned: Annotated[tuple[Index, ...], Field(max_length=MAX_BLOCKS, strict=False)]
    share: Sharing | None


class TokenizerFacts(_Strict):
    """Beside `tokenizer.json`: its special tokens by role, chat template, and the tokens that the model takes."""

    special_tokens: dict[
        Literal["bos_token", "eos_token", "unk_token", "pad_token"], Annotated[str, Field(max_length=64)]
    ]
    chat_template: Annotated[str, Field(max_length=1 << 16)] | None
    context: Size


class Disclosure(_Strict):
    """The recipient's part of the full model: by this bundle, and by all so far, this one included.

    blocks: indices of the blocks that are given away, compressed and distilled ones too; shares: of the full model's
    distinct parameters.
    """

    blocks: Annotated[tuple[Index, ...], Field(max_length=MAX_BLOCKS, strict=False)]
    share: Share
    blocks_so_far: Annotated[tuple[Index, ...], Field(max_length=MAX_BLOCKS, strict=False)]
    share_so_far: Share


class Returns(_Strict):
    """Tensors that may come back. template: whole tuned blocks, by the full model's names; max_rank: of LoRA."""

    methods: Annotated[tuple[MethodName, ...], Field(min_length=1, max_length=5, strict=False)]
    max_rank: Annotated[int, Field(ge=1, le=4096)]
    template: Annotated[dict[TensorName, TensorFacts], Field(max_length=MAX_TENSORS)]


class EmulatorManifest(Header):
    """Manifest of an emulator, from the model owner to the data owner. nonce: the answer repeats it."""

    kind: Literal["emulator"] = "emulator"
    nonce: Identity
    base: BaseModelFacts
    architecture: Architecture
    plan: PlanFacts
    compression: Annotated[dict[Words, bool | int | float | str | None], Field(max_length=16)] | None
    tokenizer: TokenizerFacts
    returns: Returns
    disclosure: Disclosure


class Answer(_Strict):
    """The emulator that was tuned: its id, its nonce, and SHA-256 of its manifest."""

    id: Identity
    nonce: Identity
    manifest: Digest


class TunedBlocksManifest(Header):
    """Manifest of tuned blocks, from the data owner back to the model owner.

    method: the fields of `TuningMethod`; tuning, scores: numbers that the data owner agreed to tell.
    """

    kind: Literal["tuned_blocks"] = "tuned_blocks"
    answers: Answer
    base: Digest
    method: Annotated[dict[Words, bool | int | float | str], Field(max_length=16)]
    tuning: Annotated[dict[Words, Number], Field(max_length=64)]
    scores: Annotated[dict[Words, Number], Field(max_length=64)]


Manifest = EmulatorManifest | TunedBlocksManifest
KINDS: dict[str, type[EmulatorManifest] | type[TunedBlocksManifest]] = {
    "emulator": EmulatorManifest,
    "tuned_blocks": TunedBlocksManifest,
}


def read_manifest(content: bytes) -> Manifest:
    """Read a manifest whose signature has been checked.

    Raises:
        RefusedError: when it is not valid, of a newer version, or of an unknown kind.
    """
    found = parse_strictly(content, MANIFEST_FILE)
    version = found.get("version")
    if found.get("format") != FORMAT or not isinstance(version, int):
        raise RefusedError(f"{MANIFEST_FILE}: not a bundle's manifest (expected format {FORMAT!r})")
    if version > VERSION:
        raise RefusedError(f"{MANIFEST_FILE}: format version {version}; this program reads up to {VERSION}: update it")
    kind = found.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise RefusedError(f"{MANIFEST_FILE}: expected kind {' or '.join(KINDS)}, found another")
    try:
        return KINDS[kind].model_validate_json(content)
    except ValidationError as error:
        raise RefusedError(f"{MANIFEST_FILE}: {_first(error)}") from None


def to_bytes(manifest: Manifest) -> bytes:
    """Return the content of the manifest's file, which is what is signed.

    Raises:
        ValueError: when it is larger than a manifest may be.
    """
    content = manifest.model_dump_json(indent=1).encode() + b"\n"
    if len(content) > max_bytes(MANIFEST_FILE):
        raise ValueError(f"the manifest has {len(content):,} bytes, more than {max_bytes(MANIFEST_FILE):,}")
    return content


def _first(error: ValidationError) -> str:
    """Return the first problem, without the values that were found."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part)[:64] for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{ascii(place)[1:-1]}: {message}" if place else message
