"""Open a bundle: verify it, keep a copy that nobody else can change, and enter it into the ledger, in one step."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tasks.core.errors import CrashError, InputError, RefusedError
from tasks.exchange.keys import PublicKey, own_public_keys, trusted_keys
from tasks.exchange.ledger import Ledger, opened
from tasks.exchange.ledger_entry import Entry, entry_of
from tasks.exchange.manifest import EmulatorManifest, Manifest, TunedBlocksManifest
from tasks.exchange.names import TOKENIZER_FILE, is_weights
from tasks.exchange.place import ExchangePlace
from tasks.exchange.receiving import (
    Expected,
    Verified,
    copy_files,
    private_folder,
    refusing,
    require_recipient,
    require_unseen,
    verify_manifest,
)
from tasks.store.digests import plain_digest, same_files
from tasks.store.files import flush

logger = logging.getLogger(__name__)
FILES, RESTORED = "bundle", "opened"


@dataclass(frozen=True)
class OpenedBundle:
    """A bundle that was verified. folder: made of it, in a form that stages read; digest: of its manifest; signer: the
    key of its sender.
    """

    manifest: Manifest
    digest: str
    folder: Path
    signer: PublicKey


# Makes a folder of a bundle's verified files: (their folder, an empty one).
Restore = Callable[[Path, Path], None]


@dataclass(frozen=True)
class Expectation:
    """The content of a bundle. tensors: by weights file; serving: number format in which they will be used."""

    tensors: Expected
    restore: Restore
    serving: str | None = None


def open_emulator(
    bundle: Path, place: ExchangePlace, now: datetime, restore: Callable[[EmulatorManifest, Path, Path], None]
) -> OpenedBundle:
    """Verify an emulator that another party has sealed for this one, and make its folder.

    restore: makes the emulator's folder from manifest and verified files. An emulator may be opened again and again.

    Raises:
        RefusedError: when any check fails; nothing is kept then.
    """

    def expected(verified: Verified) -> Expectation:
        manifest = verified.manifest
        assert isinstance(manifest, EmulatorManifest), "the kind was checked"
        if TOKENIZER_FILE not in manifest.files:
            raise RefusedError(f"manifest.json: files: {TOKENIZER_FILE} is missing")
        weights = {name: None for name in manifest.files if is_weights(name)}
        return Expectation(weights, lambda copy, out: restore(manifest, copy, out))

    (opened_bundle,) = _open([bundle], "emulator", place, now, expected)
    return opened_bundle


def open_tuned_blocks(
    bundles: Sequence[Path],
    place: ExchangePlace,
    now: datetime,
    expect: Callable[[TunedBlocksManifest, Entry], Expectation],
) -> list[OpenedBundle]:
    """Verify bundles of tuned blocks that answer emulators of this party, all or none, and make their folders.

    expect: says, from manifest and the ledger's entry of the emulator, which tensors must be there, and how to make a
    tuning's folder of them; called in the order of the bundles. The answers are not accepted yet (`settle`).

    Raises:
        RefusedError: when any check of one of them fails; names it, and nothing is kept of any.
    """

    def expected(verified: Verified) -> Expectation:
        manifest = verified.manifest
        assert isinstance(manifest, TunedBlocksManifest), "the kind was checked"
        with opened(place.ledger) as ledger:
            asked = ledger.require_open(manifest.answers, manifest.sender.fingerprint)
        if manifest.base != asked.base:
            raise RefusedError("manifest.json: base: tuned blocks of another full model than the emulator's")
        return expect(manifest, asked)

    return _open(bundles, "tuned_blocks", place, now, expected)


def settle(
    place: ExchangePlace,
    manifests: Sequence[TunedBlocksManifest],
    state: str,
    publish: Callable[[], None] = lambda: None,
) -> None:
    """Accept or decline tuned blocks of several bundles, once, all or none.

    state: `ledger.ACCEPTED` or `ledger.DECLINED`; publish: hands over what was accepted, within the transaction. A
    process that is killed after it leaves what was handed over, and tuned blocks that can still be accepted.

    Raises:
        RefusedError: when one of the emulators was answered meanwhile.
    """
    with opened(place.ledger) as ledger:
        for manifest in manifests:
            ledger.require_open(manifest.answers, manifest.sender.fingerprint)
            ledger.close(manifest.id, state)
        publish()


@dataclass(frozen=True)
class _Checked:
    """A bundle all of whose checks passed, before its entry.

    partial: private folder of its files, None where they were kept before; is_damaged: whether what was kept before is
    no longer what was verified.
    """

    verified: Verified
    partial: Path | None
    opened: OpenedBundle
    is_damaged: bool = False


def _open(
    bundles: Sequence[Path],
    kind: str,
    place: ExchangePlace,
    now: datetime,
    expected: Callable[[Verified], Expectation],
) -> list[OpenedBundle]:
    with ExitStack() as folders:
        checked = [_check(bundle, kind, place, now, expected, folders) for bundle in bundles]
        with opened(place.ledger) as ledger:
            for bundle, each in zip(bundles, checked, strict=True):
                with refusing(bundle):
                    require_unseen(each.verified, ledger, now)
            for each in checked:
                _enter(each, ledger, place, now)
        return [each.opened for each in checked]


def _check(
    bundle: Path,
    kind: str,
    place: ExchangePlace,
    now: datetime,
    expected: Callable[[Verified], Expectation],
    folders: ExitStack,
) -> _Checked:
    """Check a bundle, and copy and restore it into a private folder, which is removed with `folders`."""
    with refusing(bundle):
        partial = folders.enter_context(private_folder(place.received))
        copy, restored = partial / FILES, partial / RESTORED
        copy.mkdir()
        restored.mkdir()
        verified = verify_manifest(bundle, copy, kind, trusted_keys(place.trusted), now)
        require_recipient(verified, own_public_keys(place.keys))
        target, found = place.received / verified.digest, verified.manifest
        opened_bundle = OpenedBundle(found, verified.digest, target / RESTORED, verified.signer)
        # Before anything large is read; and again with the entry, since another admission may have come between.
        with opened(place.ledger) as ledger:
            require_unseen(verified, ledger, now)
            is_known = ledger.find(found.id) is not None
        wanted = expected(verified)
        is_there = is_known and target.is_dir()
        if is_there and _is_intact(target, found, wanted.restore, partial / "compared"):
            return _Checked(verified, None, opened_bundle)
        copy_files(bundle, copy, found, wanted.tensors, wanted.serving)
        with _refused_input():
            wanted.restore(copy, restored)
        return _Checked(verified, partial, opened_bundle, is_damaged=is_there)


def _enter(checked: _Checked, ledger: Ledger, place: ExchangePlace, now: datetime) -> None:
    """Keep the copy of a checked bundle, and add its entry, within the ledger's transaction."""
    if checked.partial is None:
        return
    verified = checked.verified
    target, is_known = place.received / verified.digest, ledger.find(verified.manifest.id) is not None
    if is_known and target.is_dir() and not checked.is_damaged:
        # Another admission of this bundle was faster, and its folder may be in use.
        return
    if not is_known:
        ledger.add(entry_of(verified.manifest, verified.digest, "in", now))
    _set_aside(target, place, checked.is_damaged)
    os.replace(checked.partial, target)
    flush(place.received)


def _is_intact(target: Path, manifest: Manifest, restore: Restore, empty: Path) -> bool:
    """Return whether the copy of an earlier command is what was verified, and the folder that was made of it too.

    empty: place for a folder that is made again to compare; removed.
    """
    empty.mkdir()
    try:
        if any(plain_digest(target / FILES / name) != facts.sha256 for name, facts in manifest.files.items()):
            return False
        restore(target / FILES, empty)
        return same_files(empty, target / RESTORED)
    except (OSError, ValueError, CrashError):
        return False
    finally:
        shutil.rmtree(empty)


def _set_aside(target: Path, place: ExchangePlace, is_damaged: bool) -> None:
    """Make room for a new copy: keep a damaged one for inspection, remove what a killed process has left."""
    if is_damaged:
        kept = place.quarantine / f"{target.name[:12]}-{time.time_ns()}"
        logger.warning("%s was changed since it was received: moved to %s, and copied again", target, kept)
        kept.parent.mkdir(exist_ok=True)
        os.replace(target, kept)
        # `crash gc` counts from here.
        os.utime(kept)
    else:
        shutil.rmtree(target, ignore_errors=True)


@contextmanager
def _refused_input() -> Iterator[None]:
    """Treat an emulator that cannot be used as what it is here: something that a stranger has sent."""
    try:
        yield
    except InputError as error:
        raise RefusedError(f"it cannot be used: {' '.join(str(error).split())}") from None
