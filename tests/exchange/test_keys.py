"""Keys: made, kept from other users, trusted, and used by the stock library."""

import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tasks.core.errors import EnvironmentFault, InputError, RefusedError
from tasks.exchange.keys import grouped, new_key, own_key, read_public, trust, trusted_key, trusted_keys
from tests.exchange.parties import NOW


def test_only_its_owner_can_read_a_private_key(tmp_path: Path) -> None:
    new_key("acme", tmp_path / "keys", NOW)
    assert (tmp_path / "keys" / "acme.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_a_private_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    new_key("acme", tmp_path, NOW)
    (tmp_path / "acme.key").chmod(0o644)
    with pytest.raises(EnvironmentFault, match="chmod 600"):
        own_key(tmp_path)


def test_signatures_verify_and_those_of_other_content_or_keys_do_not(tmp_path: Path) -> None:
    for name in ("acme", "clinic"):
        new_key(name, tmp_path, NOW)
    acme, clinic = own_key(tmp_path, "acme"), own_key(tmp_path, "clinic")
    signature = acme.sign(b"content")
    assert acme.public.verifies(signature, b"content")
    assert not acme.public.verifies(signature, b"Content")
    assert not clinic.public.verifies(signature, b"content")
    assert not acme.public.verifies(signature[:-1], b"content")
    assert not acme.public.verifies(b"", b"content")


def test_the_stock_library_verifies_a_signature(tmp_path: Path) -> None:
    public = new_key("acme", tmp_path, NOW)
    # The fixed bytes in front of an Ed25519 key in DER (RFC 8410).
    der = bytes.fromhex("302a300506032b6570032100") + base64.b64decode(public.key)
    key: Any = load_der_public_key(der)
    key.verify(own_key(tmp_path).sign(b"content"), b"content")
    with pytest.raises(InvalidSignature):
        key.verify(own_key(tmp_path).sign(b"content"), b"Content")


def test_a_name_is_used_once_and_has_no_path_in_it(tmp_path: Path) -> None:
    new_key("acme", tmp_path, NOW)
    with pytest.raises(InputError, match="there is a key acme"):
        new_key("acme", tmp_path, NOW)
    with pytest.raises(InputError, match="64 letters"):
        new_key("../acme", tmp_path, NOW)


def test_which_key_signs_is_said_where_there_are_several(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="crash keys new"):
        own_key(tmp_path)
    for name in ("acme", "clinic"):
        new_key(name, tmp_path, NOW)
    with pytest.raises(InputError, match="choose one with --key"):
        own_key(tmp_path)
    with pytest.raises(InputError, match="no key other"):
        own_key(tmp_path, "other")


def test_a_trusted_key_is_found_by_name(tmp_path: Path) -> None:
    public = new_key("acme", tmp_path / "keys", NOW)
    trust(tmp_path / "keys" / "acme.pub", tmp_path / "trusted")
    assert trusted_key(tmp_path / "trusted", "acme") == public
    with pytest.raises(InputError, match=r"trusted: acme.*crash keys trust clinic\.pub"):
        trusted_key(tmp_path / "trusted", "clinic")


def test_another_key_of_the_same_party_is_not_taken_in_silence(tmp_path: Path) -> None:
    for place in ("one", "two"):
        new_key("acme", tmp_path / place, NOW)
    first = trust(tmp_path / "one" / "acme.pub", tmp_path / "trusted")
    trust(tmp_path / "one" / "acme.pub", tmp_path / "trusted")
    with pytest.raises(InputError, match="another key of acme is trusted"):
        trust(tmp_path / "two" / "acme.pub", tmp_path / "trusted")
    assert trusted_keys(tmp_path / "trusted") == [first]


@pytest.mark.parametrize(
    "change",
    [{"name": "../x"}, {"algorithm": "rsa"}, {"key": "AAAA"}, {"version": 2}, {"more": 1}, {"expires": "soon"}],
    ids=str,
)
def test_other_files_are_no_keys(tmp_path: Path, change: dict) -> None:
    new_key("acme", tmp_path, NOW)
    file = tmp_path / "acme.pub"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(RefusedError, match=r"refused .*acme\.pub: not a public key"):
        read_public(file)


def test_a_large_file_is_not_read_as_a_key(tmp_path: Path) -> None:
    (tmp_path / "x.pub").write_bytes(b" " * 10_000)
    with pytest.raises(RefusedError, match="larger than a public key"):
        read_public(tmp_path / "x.pub")


def test_a_key_lasts_two_years_and_has_a_fingerprint_that_can_be_read_out(tmp_path: Path) -> None:
    public = new_key("acme", tmp_path, NOW)
    assert public.expires - public.created == timedelta(days=730)
    assert len(public.fingerprint) == 64
    assert grouped(public.fingerprint).replace(" ", "") == public.fingerprint
    assert {len(group) for group in grouped(public.fingerprint).split()} == {4}
