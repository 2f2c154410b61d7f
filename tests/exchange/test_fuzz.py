"""Mutations of a valid bundle: it is accepted and identical, or refused and nothing has changed; nothing else."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core.errors import RefusedError
from tasks.exchange.manifest import EmulatorManifest
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


SHARES = st.floats(0, 1, exclude_max=True)
NAMES = st.sampled_from(FILES)
EXTRA = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..")
)
MUTATIONS = st.one_of(
    st.builds(_flip, NAMES, SHARES, st.integers(0, 7)),
    st.builds(_cut, NAMES, SHARES),
    st.builds(_insert, NAMES, SHARES, st.binary(min_size=1, max_size=64)),
    st.builds(_remove, NAMES),
    st.builds(_add, EXTRA, st.binary(max_size=64)),
    st.builds(_swap, NAMES, NAMES),
)


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Party, Party, EmulatorManifest, Path]:
    root = tmp_path_factory.mktemp("fuzz")
    acme, clinic = make_parties(root / "homes", "acme", "clinic")
    asked = seal_emulator(acme, clinic, make_emulator(root / "made"), root / "emulator")
    opened = receive_emulator(clinic, root / "emulator")
    seal_tuned(clinic, acme, opened, make_tuning(root / "tuning"), root / "returned")
    receive_tuned(acme, root / "returned", asked)
    return acme, clinic, asked, root / "returned"


@pytest.mark.timeout(3600)
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations=st.lists(MUTATIONS, min_size=1, max_size=3), is_signed=st.booleans())
def test_mutated_bundles_are_refused_or_identical(
    exchanged: tuple[Party, Party, EmulatorManifest, Path], mutations: list[Mutation], is_signed: bool
) -> None:
    """is_signed: the owner of the data is dishonest and signs the changed manifest."""
    acme, clinic, asked, valid = exchanged
    bundle = valid.parent / "mutated"
    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(valid, bundle)
    try:
        for mutate in mutations:
            if all((bundle / name).exists() for name in FILES):
                mutate(bundle)
        if is_signed and (bundle / "manifest.json").exists():
            resign(bundle, clinic, (bundle / "manifest.json").read_bytes())
    except OSError:
        return
    before, refusal = tree_digest(acme.home), None
    try:
        receive_tuned(acme, bundle, asked)
    except RefusedError as error:
        refusal = str(error)
    if refusal is None:
        # The same signed bundle again, or another manifest that says the same of the same weights.
        assert (bundle / "weights.safetensors").read_bytes() == (valid / "weights.safetensors").read_bytes()
    else:
        assert "\n" not in refusal
        assert tree_digest(acme.home) == before
