"""Keys of the parties: Ed25519 by the package `cryptography`.

A bundle's signature is that of the exact bytes of its manifest, which has the digests of all other files; the stock
library, or `openssl pkeyutl -verify -rawin`, checks it without any code of ours. Ed25519 is deterministic (no random
number that could be used twice), has keys of 32 bytes, and `cryptography` is installed with MLflow anyway. The bundle
format of OpenSSF's model-signing was the alternative: it takes no Ed25519 keys, leaves some files out by default, and
would bring thirty packages for what one signature of one small file does.
"""

import base64
import hashlib
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from tasks.core.errors import EnvironmentFault, InputError, RefusedError
from tasks.exchange.strict_json import parse_strictly
from tasks.store.files import replace_file, write_flushed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
PUBLIC, PRIVATE = ".pub", ".key"
YEARS = 2
_MAX_BYTES = 4096


class PublicKey(BaseModel):
    """The public half of a party's key, as its file has it. key: the 32 bytes of RFC 8032, in base64."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["crash-flow key"] = "crash-flow key"
    version: Literal[1] = 1
    name: str = Field(pattern=f"^{NAME}$")
    algorithm: Literal["ed25519"] = "ed25519"
    key: str = Field(pattern=r"^[A-Za-z0-9+/]{43}=$")
    created: AwareDatetime
    expires: AwareDatetime

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key's 32 bytes, 64 hexadecimal digits."""
        return hashlib.sha256(base64.b64decode(self.key)).hexdigest()

    def verifies(self, signature: bytes, content: bytes) -> bool:
        """Return whether the signature is this key's of this content."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(base64.b64decode(self.key)).verify(signature, content)
        except (InvalidSignature, ValueError):
            return False
        return True

    def to_json(self) -> bytes:
        """Return the content of the key's file."""
        return self.model_dump_json(indent=1).encode() + b"\n"


@dataclass(frozen=True)
class OwnKey:
    """A key of this party, with its private half."""

    public: PublicKey
    private: "Ed25519PrivateKey"

    def sign(self, content: bytes) -> bytes:
        """Return the signature of a content, 64 bytes."""
        return self.private.sign(content)


def grouped(fingerprint: str) -> str:
    """Return a fingerprint in groups of four digits, to be read out and compared."""
    return " ".join(fingerprint[start : start + 4] for start in range(0, len(fingerprint), 4))


def new_key(name: str, folder: Path, now: datetime) -> PublicKey:
    """Make a key in a folder, which only its owner may read: NAME.key and NAME.pub.

    Raises:
        InputError: when the name cannot be used, or the folder has a key of this name.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if (folder / f"{name}{PRIVATE}").exists():
        raise InputError(f"there is a key {name} in {folder}: choose another --name")
    private = Ed25519PrivateKey.generate()
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    begun = now.replace(microsecond=0)
    try:
        public = PublicKey(
            name=name,
            key=base64.b64encode(raw).decode(),
            created=begun,
            expires=begun + timedelta(days=365 * YEARS),
        )
    except ValidationError:
        raise InputError(
            f"--name {name!r}: a name has up to 64 letters, digits, dots, dashes and underscores"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    # A private key without its public half would stop every command.
    write_flushed(folder / f"{name}{PUBLIC}", public.to_json())
    _write_private(folder / f"{name}{PRIVATE}", private)
    return public


def own_key(folder: Path, name: str | None = None) -> OwnKey:
    """Return a key of this party. name: which one, where there are several.

    Raises:
        InputError: when there is none, or several and no name.
        EnvironmentFault: when its file can be read by others, or is damaged.
    """
    names = sorted(path.stem for path in folder.glob(f"*{PRIVATE}"))
    if not names:
        raise InputError(f"there is no key in {folder}: make one with `crash keys new --name NAME`")
    if name is None and len(names) > 1:
        raise InputError(f"{folder} has the keys {', '.join(names)}: choose one with --key NAME")
    chosen = name or names[0]
    if chosen not in names:
        raise InputError(f"there is no key {chosen} in {folder}, which has {', '.join(names)}")
    return OwnKey(read_public(folder / f"{chosen}{PUBLIC}"), _read_private(folder / f"{chosen}{PRIVATE}"))


def own_key_of(folder: Path, fingerprint: str) -> OwnKey:
    """Return the key of this party with a fingerprint.

    Raises:
        InputError: when there is none.
    """
    found = [key.name for key in own_public_keys(folder) if key.fingerprint == fingerprint]
    if not found:
        raise InputError(f"there is no key with fingerprint {grouped(fingerprint)} in {folder}")
    return own_key(folder, found[0])


def own_public_keys(folder: Path) -> list[PublicKey]:
    """Return the public halves of this party's keys."""
    return [read_public(path.with_suffix(PUBLIC)) for path in sorted(folder.glob(f"*{PRIVATE}"))]


def trusted_keys(folder: Path) -> list[PublicKey]:
    """Return the keys of other parties that this one trusts."""
    return [read_public(path) for path in sorted(folder.glob(f"*{PUBLIC}"))]


def trusted_key(folder: Path, name: str) -> PublicKey:
    """Return the trusted key of a party.

    Raises:
        InputError: when no key of this name is trusted.
    """
    found = {key.name: key for key in trusted_keys(folder)}
    if name not in found:
        names = ", ".join(found) or "none"
        raise InputError(f"no key of {name!r} is trusted here (trusted: {names}): `crash keys trust {name}.pub` first")
    return found[name]


def trust(file: Path, folder: Path) -> PublicKey:
    """Trust the key in a file from now on.

    Raises:
        InputError: when another key of the same party is trusted.
        RefusedError: when the file does not hold a public key.
    """
    key = read_public(file)
    known = {each.name: each for each in trusted_keys(folder)}.get(key.name)
    if known is not None and known.key != key.key:
        raise InputError(
            f"another key of {key.name} is trusted, with fingerprint {grouped(known.fingerprint)}. If the party has"
            f" really changed its key, remove {folder / (key.name + PUBLIC)} and trust this one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / f"{key.name}{PUBLIC}", key.to_json())
    return key


def read_public(file: Path) -> PublicKey:
    """Read a public key's file.

    Raises:
        RefusedError: when it does not hold a public key.
        InputError: when it cannot be read.
    """
    try:
        with open(file, "rb") as opened:
            content = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"the key {file} cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise RefusedError(f"refused {file}: larger than a public key")
    parse_strictly(content, f"refused {file}")
    try:
        return PublicKey.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RefusedError(f"refused {file}: not a public key ({place}: {first['msg']})") from None


def _write_private(file: Path, private: "Ed25519PrivateKey") -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    content = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # Readable by its owner alone from the first moment on.
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def _read_private(file: Path) -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if file.stat().st_mode & 0o077:
        raise EnvironmentFault(f"the private key {file} can be read by others: chmod 600 {file}")
    try:
        found = load_pem_private_key(file.read_bytes(), password=None)
    except (ValueError, TypeError):
        raise EnvironmentFault(
            f"the private key {file} is damaged: restore it from a copy, or make a new one"
        ) from None
    if not isinstance(found, Ed25519PrivateKey):
        raise EnvironmentFault(f"the private key {file} is not an Ed25519 key")
    return found
