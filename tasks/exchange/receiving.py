"""Receive a bundle: check and copy it, in an order in which nothing is used before it has been checked.

Names, kinds and sizes of the files; a copy of manifest and signature; the signature; the manifest; recipient, times and
the ledger; then each other file, which is copied, hashed and looked at in one pass. Whatever is used later is the copy.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tasks.core.errors import EnvironmentFault, RefusedError
from tasks.exchange.folder import CHUNK_BYTES, list_bundle, opened, read_small
from tasks.exchange.keys import PublicKey
from tasks.exchange.ledger import TOLERANCE, Ledger
from tasks.exchange.leftovers import find_abandoned, partial_prefix
from tasks.exchange.manifest import FileFacts, Manifest, TensorFacts, read_manifest
from tasks.exchange.names import CARD_FILE, MANIFEST_FILE, SIGNATURE_FILE, TOKENIZER_FILE
from tasks.exchange.weights import WeightsCheck
from tasks.store.disk import DISK_ERRORS
from tasks.store.files import write_flushed

# The tensors of each weights file; None for a file whose tensors follow from nothing but its own header.
Expected = Mapping[str, Mapping[str, TensorFacts] | None]


@dataclass(frozen=True)
class Verified:
    """A manifest whose signature and fields were checked. digest: SHA-256 of its bytes; signer: whose key it was."""

    manifest: Manifest
    digest: str
    signer: PublicKey


def verify_manifest(
    folder: Path, copy: Path, kind: str | None, trusted: Sequence[PublicKey], now: datetime
) -> Verified:
    """Copy manifest and signature of a bundle, check them, and read the manifest.

    copy: an empty folder; kind: which kind of bundle is expected, None for any; trusted: keys of other parties.

    Raises:
        RefusedError: when files are not those of a bundle, no trusted key has signed, or the manifest is not valid, of
            another kind, expired, or names other files than are there.
    """
    sizes = list_bundle(folder)
    content, signature = (read_small(folder, name) for name in (MANIFEST_FILE, SIGNATURE_FILE))
    signer = _signer(signature, content, trusted, now)
    write_flushed(copy / MANIFEST_FILE, content)
    write_flushed(copy / SIGNATURE_FILE, signature)
    manifest = read_manifest(content)
    if kind not in (None, manifest.kind):
        raise RefusedError(f"{MANIFEST_FILE}: expected a bundle of kind {kind}, found {manifest.kind}")
    if (manifest.sender.fingerprint, manifest.sender.name) != (signer.fingerprint, signer.name):
        raise RefusedError(f"{MANIFEST_FILE}: signed by {signer.name}, but it names another sender")
    _require_valid(manifest, now)
    _require_files(sizes, manifest.files)
    return Verified(manifest, hashlib.sha256(content).hexdigest(), signer)


def require_recipient(verified: Verified, own: Sequence[PublicKey]) -> None:
    """Check that a bundle is for one of these keys.

    Raises:
        RefusedError: when it is for another party.
    """
    recipient = verified.manifest.recipient
    if recipient.fingerprint not in {key.fingerprint for key in own}:
        raise RefusedError(f"{MANIFEST_FILE}: it is for {recipient.name}, whose key is not one of this home")


def require_unseen(verified: Verified, ledger: Ledger, now: datetime) -> None:
    """Check a bundle against the ledger.

    Raises:
        RefusedError: as `Ledger.require_later` and `Ledger.require_new`.
    """
    ledger.require_later(now)
    ledger.require_new(verified.manifest, verified.digest)


def copy_files(folder: Path, copy: Path, manifest: Manifest, expected: Expected, serving: str | None = None) -> None:
    """Copy the other files of a bundle, and check digests, headers and values on the way.

    serving: number format in which the tensors will be used, where it is known.

    Raises:
        RefusedError: when a file has another digest than the manifest says, or other tensors than expected, or values
            that are not finite.
    """
    others = {CARD_FILE, TOKENIZER_FILE} if manifest.kind == "emulator" else {CARD_FILE}
    if wrong := sorted((manifest.files.keys() - others) ^ expected.keys()):
        raise RefusedError(f"{MANIFEST_FILE}: files: {wrong[0]} is missing, or there is no reason for it")
    seen: set[str] = set()
    for name, facts in manifest.files.items():
        check = WeightsCheck(name, facts.size, expected[name], serving) if name in expected else None
        _copy(folder, copy, name, facts, check)
        if check:
            _require_readable(copy / name)
        if check and (twice := sorted(seen & check.found.keys())):
            raise RefusedError(f"{name}: {twice[0]} is in another file too")
        seen |= check.found.keys() if check else set()


def copy_one(folder: Path, copy: Path, manifest: Manifest, name: str) -> None:
    """Copy one file of a bundle that holds no tensors, and check its digest.

    Raises:
        RefusedError: when it is missing, or has another digest than the manifest says.
    """
    if name not in manifest.files:
        raise RefusedError(f"{MANIFEST_FILE}: files: {name} is missing")
    _copy(folder, copy, name, manifest.files[name], None)


@contextmanager
def refusing(bundle: Path) -> Iterator[None]:
    """Name the bundle in every refusal within the context."""
    try:
        yield
    except RefusedError as error:
        raise RefusedError(f"refused {bundle}: {error}") from None


@contextmanager
def private_folder(beside: Path) -> Iterator[Path]:
    """Make a folder that only this user can read, and remove it at the end unless it was renamed.

    Folders that killed processes have left beside it are removed too.

    Raises:
        EnvironmentFault: when the disk is full, or may not be written.
    """
    with _explained(beside):
        beside.mkdir(parents=True, exist_ok=True)
        for left in find_abandoned(beside):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=beside, prefix=partial_prefix(), ignore_cleanup_errors=True) as folder:
            yield Path(folder)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Say what to do about an error of the disk within the context."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise EnvironmentFault(
            f"{error.filename or folder}: {error.strerror}; nothing half written is kept. Make room on the disk, or"
            " change the rights of the folder, then run the same command again"
        ) from None


def _copy(folder: Path, copy: Path, name: str, facts: FileFacts, check: WeightsCheck | None) -> None:
    """Copy one file. Its digest is compared first: a damaged file is called damaged, whatever its tensors say."""
    digest, size, problem = hashlib.sha256(), 0, None
    with opened(folder, name) as source, open(copy / name, "xb") as target:
        while part := os.read(source, CHUNK_BYTES):
            size += len(part)
            if size > facts.size:
                break
            digest.update(part)
            target.write(part)
            if check and not problem:
                problem = _problem(check.feed, part)
        target.flush()
        os.fsync(target.fileno())
    if size != facts.size or digest.hexdigest() != facts.sha256:
        raise RefusedError(
            f"{name}: digest: expected {facts.size:,} bytes with SHA-256 {facts.sha256[:12]}..., found"
            f" {size:,} with {digest.hexdigest()[:12]}..."
        )
    if check and not problem:
        problem = _problem(check.finish)
    if problem:
        raise problem


def _require_readable(file: Path) -> None:
    """Check that the library that will read the tensors accepts the file too."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
    except SafetensorError as error:
        raise RefusedError(f"{file.name}: damaged ({error})") from None


def _problem(step: Callable[..., None], *given: bytes) -> RefusedError | None:
    try:
        step(*given)
    except RefusedError as error:
        return error
    return None


def _signer(signature: bytes, content: bytes, trusted: Sequence[PublicKey], now: datetime) -> PublicKey:
    for key in trusted:
        if key.verifies(signature, content):
            if key.expires < now:
                raise RefusedError(f"{SIGNATURE_FILE}: the key of {key.name} expired on {key.expires:%Y-%m-%d}")
            return key
    names = ", ".join(key.name for key in trusted) or "none"
    raise RefusedError(f"{SIGNATURE_FILE}: signature: no trusted key has signed this manifest (trusted: {names})")


def _require_valid(manifest: Manifest, now: datetime) -> None:
    if manifest.expires < now:
        raise RefusedError(f"{MANIFEST_FILE}: expired on {manifest.expires:%Y-%m-%d}; ask for a new bundle")
    if manifest.created > now + TOLERANCE:
        raise RefusedError(
            f"{MANIFEST_FILE}: made on {manifest.created:%Y-%m-%d %H:%M}, later than now: one of the clocks is wrong"
        )


def _require_files(sizes: Mapping[str, int], files: Mapping[str, FileFacts]) -> None:
    """Check that the folder has exactly the manifest's files, in their sizes."""
    there = sizes.keys() - {MANIFEST_FILE, SIGNATURE_FILE}
    if absent := sorted(files.keys() - there):
        raise RefusedError(f"{absent[0]}: missing, the manifest names it")
    if extra := sorted(there - files.keys()):
        raise RefusedError(f"unexpected file {extra[0]}: the manifest does not name it")
    for name, facts in files.items():
        if sizes[name] != facts.size:
            raise RefusedError(f"{name}: expected {facts.size:,} bytes, found {sizes[name]:,}")
