"""Valid bundles that tests damage, and no network."""

import socket

import pytest

from tests.exchange.parties import make_emulator, make_parties, make_tuning, receive_emulator, seal_emulator, seal_tuned
from tests.exchange.refusals import Exchanged


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither sealing nor opening a bundle connects to anything."""

    def refuse(_: socket.socket, address: object) -> None:
        raise AssertionError(f"a connection to {address}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory) -> Exchanged:
    root = tmp_path_factory.mktemp("exchanged")
    acme, clinic = make_parties(root / "homes", "acme", "clinic")
    asked = seal_emulator(acme, clinic, make_emulator(root / "made"), root / "emulator")
    opened = receive_emulator(clinic, root / "emulator")
    seal_tuned(clinic, acme, opened, make_tuning(root / "tuning"), root / "returned")
    return Exchanged(acme, clinic, root / "emulator", asked, root / "returned")
