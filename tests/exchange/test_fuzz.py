"""Mutations of a valid bundle: it is accepted and identical, or refused and nothing has changed; nothing else."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tasks.core.errors import RefusedError
from tasks.exchange.manifest import EmulatorManifest
from tasks.exchange.sealing import file_facts
from tests.exchange.parties import (
    Party,
    make_emulator,
    make_parties,
    make_tuning,
    receive_emulator,
    receive_tuned,
    resign,
    seal_emulator,
    seal_tuned,
    tree_digest,
)

FILES = ("manifest.json", "manifest.sig", "weights.safetensors")
# Another number by the environment.
CASES = int(os.environ.get("CRASH_FUZZ_CASES", "2000"))
Mutation = Callable[[Path], None]


def _flip(name: str, place: float, bit: int) -> Mutation:
    def mutate(bundle: Path) -> None:
        content = bytearray((bundle / name).read_bytes())
        if content:
            content[min(int(place * len(content)), len(content) - 1)] ^= 1 << bit
        (bundle / name).write_bytes(content)

    return mutate


def _cut(name: str, share: float) -> Mutation:
    def mutate(bundle: Path) -> None:
        content = (bundle / name).read_bytes()
        (bundle / name).write_bytes(content[: int(share * len(content))])

    return mutate


def _insert(name: str, place: float, more: bytes) -> Mutation:
    def mutate(bundle: Path) -> None:
        content = (bundle / name).read_bytes()
        at = int(place * len(content))
        (bundle / name).write_bytes(content[:at] + more + content[at:])

    return mutate


def _remove(name: str) -> Mutation:
    return lambda bundle: (bundle / name).unlink(missing_ok=True)


def _add(name: str, content: bytes) -> Mutation:
    def mutate(bundle: Path) -> None:
        if not (bundle / name).exists():
            (bundle / name).write_bytes(content)

    return mutate


def _swap(first: str, second: str) -> Mutation:
    def mutate(bundle: Path) -> None:
        contents = (bundle / first).read_bytes(), (bundle / second).read_bytes()
        (bundle / second).write_bytes(contents[0])
        (bundle / first).write_bytes(contents[1])

    return mutate


def _header(places: list[float], text: str) -> Mutation:
    """Change characters of the weights' header."""

    def mutate(bundle: Path) -> None:
        content = bytearray((bundle / "weights.safetensors").read_bytes())
        length = int.from_bytes(content[:8], "little")
        if 0 < length < len(content) - 8:
            for place, letter in zip(places, text, strict=False):
                content[8 + int(place * length)] = ord(letter) & 0x7F
        (bundle / "weights.safetensors").write_bytes(content)

    return mutate


def _field(place: float, value: Any) -> Mutation:
    """Give one field of the manifest, at any depth, another value."""

    def mutate(bundle: Path) -> None:
        try:
            values = json.loads((bundle / "manifest.json").read_text())
        except ValueError:
            return
        fields = list(_fields(values))
        if fields:
            inner, name = fields[int(place * len(fields))]
            inner[name] = value
        (bundle / "manifest.json").write_text(json.dumps(values))

    return mutate


def _fields(values: Any) -> Iterator[tuple[dict[str, Any], str]]:
    for name, value in values.items() if isinstance(values, dict) else ():
        yield values, name
        yield from _fields(value)


def _with_digests(bundle: Path) -> bytes:
    """Return the manifest with the digests of the files that are there, as a dishonest party would sign it."""
    content = (bundle / "manifest.json").read_bytes()
    try:
        values = json.loads(content)
        found = file_facts(bundle)
        values["files"] = {name: found[name].model_dump() for name in values["files"] if name in found}
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return content
    return json.dumps(values).encode()


def _require_finite(found: Path, expected: Path) -> None:
    tensors, original = load_file(found), load_file(expected)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: tensor.shape for name, tensor in original.items()
    }
    assert all(tensor.isfinite().all() for tensor in tensors.values())


SHARES = st.floats(0, 1, exclude_max=True)
NAMES = st.sampled_from(FILES)
EXTRA = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..")
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=40),
    st.datetimes().map(lambda moment: f"{moment.isoformat()}Z"),
    st.lists(st.integers(-1, 12), max_size=4),
    st.dictionaries(st.text(max_size=8), st.integers(), max_size=3),
)
MUTATIONS = st.one_of(
    st.builds(_flip, NAMES, SHARES, st.integers(0, 7)),
    st.builds(_cut, NAMES, SHARES),
    st.builds(_insert, NAMES, SHARES, st.binary(min_size=1, max_size=64)),
    st.builds(_remove, NAMES),
    st.builds(_add, EXTRA, st.binary(max_size=64)),
    st.builds(_swap, NAMES, NAMES),
    st.builds(_header, st.lists(SHARES, min_size=1, max_size=4), st.text('0123456789-.,:[]{}"eF6u', min_size=1)),
    st.builds(_field, SHARES, VALUES),
    st.builds(_field, SHARES, VALUES),
)


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Party, Party, EmulatorManifest, Path]:
    root = tmp_path_factory.mktemp("fuzz")
    acme, clinic = make_parties(root / "homes", "acme", "clinic")
    asked = seal_emulator(acme, clinic, make_emulator(root / "made"), root / "emulator")
    opened = receive_emulator(clinic, root / "emulator")
    seal_tuned(clinic, acme, opened, make_tuning(root / "tuning"), root / "returned")
    acme.place.received.mkdir(parents=True)
    return acme, clinic, asked, root / "returned"


@pytest.mark.timeout(max(3600, CASES))
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations=st.lists(MUTATIONS, min_size=1, max_size=3), is_signed=st.booleans())
def test_mutated_bundles_are_refused_or_identical(
    exchanged: tuple[Party, Party, EmulatorManifest, Path], mutations: list[Mutation], is_signed: bool
) -> None:
    """is_signed: the data owner is dishonest and signs the changed manifest."""
    acme, clinic, asked, valid = exchanged
    bundle = valid.parent / "mutated"
    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(valid, bundle)
    try:
        for mutate in mutations:
            if all((bundle / name).exists() for name in FILES):
                mutate(bundle)
        if is_signed and (bundle / "manifest.json").exists():
            resign(bundle, clinic, _with_digests(bundle))
    except OSError:
        return
    kept = bundle.parent / "home"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(acme.home, kept)
    before, refusal = tree_digest(acme.home), None
    try:
        receive_tuned(acme, bundle, asked)
    except RefusedError as error:
        refusal = str(error)
    if refusal is None:
        # What was signed: the same tensors, with values that can be computed with.
        _require_finite(bundle / "weights.safetensors", valid / "weights.safetensors")
        # The next case meets the home that this one met.
        shutil.rmtree(acme.home)
        shutil.copytree(kept, acme.home)
    else:
        assert "\n" not in refusal
        assert tree_digest(acme.home) == before
