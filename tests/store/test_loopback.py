"""Proxies of the environment: servers on this machine are reached past them, others through them or not at all."""

import http.server
import logging
import os
import random
import socket
import threading
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec

import httpx
import pytest
import requests
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from tasks.core.errors import EnvironmentFault
from tasks.store import loopback
from tasks.store.loopback import PORTS, SET_ASIDE, free_port, keep_loopback_direct, require_proxy

DEAD = "127.0.0.2:9"
NAMES = [*(f"{kind}_proxy" for kind in ("http", "https", "all", "no", "ws", "wss", "socks")), SET_ASIDE]
no_socks = pytest.mark.skipif(find_spec("socksio") is not None, reason="SOCKS proxies work here")
SECRET = "correct-horse"


class Server(http.server.BaseHTTPRequestHandler):
    """Says whether it was asked as a server or as a proxy."""

    def do_GET(self) -> None:
        body = b"proxied" if self.path.startswith("http://") else b"direct"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def given(monkeypatch):
    """Sets proxy variables as a shell does, without those of this machine."""
    for name in (each for both in NAMES for each in (both.lower(), both.upper())):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)

    def give(**variables: str) -> dict[str, str]:
        os.environ.update(variables)
        keep_loopback_direct(os.environ)
        return dict(os.environ)

    yield give
    os.environ.clear()
    os.environ.update(before)


def answers(url: str) -> set[str]:
    """What every kind of client here hears at an address."""
    return {
        httpx.get(url).text,
        requests.get(url, timeout=5).text,
        urllib.request.build_opener().open(url, timeout=5).read().decode(),
    }


VALUES = [
    "socks5://{}", "socks5h://{}", "socks4://{}", "socks://{}", "{}", "http://{}", "http://user:p%40ss@{}",
    "http://user:pa#ss@{}", "http://user:pa/ss@{}", "https://{}", " http://{} ", "://{}", "ftp://{}", "http://host:port",
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("names", [("ALL_PROXY", "all_proxy"), ("http_proxy", "https_proxy"), ("HTTP_PROXY",)])
def test_no_proxy_stands_before_this_machine(given, port, value, names):
    given(**dict.fromkeys(names, value.format(DEAD)))
    assert answers(f"http://127.0.0.1:{port}/") == {"direct"}
    assert get_proxy(parse_uri(f"ws://127.0.0.1:{port}/")) is None


@pytest.mark.parametrize(
    "value",
    ["*", "[::1]", "fe80::/10", "10.0.0.0/8", "*.example.org,.corp", "ü.example", "a b", "[::1]:80", "127.*,*", ""],
)
@pytest.mark.parametrize("names", [("NO_PROXY",), ("no_proxy",), ("NO_PROXY", "no_proxy")])
def test_no_list_of_exceptions_breaks_a_client(given, port, value, names):
    given(HTTP_PROXY=f"http://{DEAD}", **dict.fromkeys(names, value))
    assert answers(f"http://127.0.0.1:{port}/") == {"direct"}


def test_other_machines_are_reached_through_the_proxy(given, port):
    given(HTTP_PROXY=f"127.0.0.1:{port}", NO_PROXY="inside.example,[::1],ü.example")
    assert answers("http://outside.example/") == {"proxied"}


def test_an_exception_that_no_client_understands_is_left_out_and_said(given, caplog):
    with caplog.at_level(logging.WARNING):
        found = given(NO_PROXY="inside.example, fe80::/10")
    assert found["NO_PROXY"] == found["no_proxy"] == "inside.example,127.0.0.1,localhost,::1"
    assert "fe80::/10" in caplog.text


def test_buckets_on_this_machine_are_reached_directly(given):
    """aiobotocore asks this function of botocore for each endpoint."""
    utils = pytest.importorskip("botocore.utils")
    given(HTTP_PROXY=f"http://{DEAD}", ALL_PROXY=f"socks5://{DEAD}")
    assert utils.get_environ_proxies("http://127.0.0.1:9000/bucket") == {}
    assert utils.get_environ_proxies("http://outside.example/bucket")["http"] == f"http://{DEAD}"


def test_nothing_changes_where_no_proxy_is_set(given):
    assert not {name for name in given() if name.lower() in NAMES}


def test_hosts_of_this_machine_are_added():
    found = {"no_proxy": "*", "NO_PROXY": "inside.example"}
    keep_loopback_direct(found, ["192.168.1.5"])
    assert found == {"no_proxy": "*", "NO_PROXY": "inside.example,127.0.0.1,localhost,::1,192.168.1.5"}


@no_socks
def test_without_its_package_a_socks_proxy_is_missed_only_where_it_applies(given):
    found = given(ALL_PROXY=f"socks5://user:{SECRET}@{DEAD}", NO_PROXY="inside.example")
    for address in ("http://127.0.0.1:1", "http://localhost", "http://[::1]:2", "http://inside.example/x"):
        require_proxy(address, found)
    with pytest.raises(EnvironmentFault, match=r"outside\.example .* ALL_PROXY, but .*pip install socksio") as error:
        require_proxy("https://outside.example/x", found)
    assert SECRET not in str(error.value) + found[SET_ASIDE]


def test_the_proxy_of_a_scheme_goes_before_that_of_all(given):
    found = given(ALL_PROXY=f"socks4://{DEAD}", HTTPS_PROXY=f"http://{DEAD}")
    require_proxy("https://outside.example", found)
    with pytest.raises(EnvironmentFault, match=r"ALL_PROXY, but its scheme is not known"):
        require_proxy("http://outside.example", found)
    # A process that is started later knows it too.
    keep_loopback_direct(found)
    with pytest.raises(EnvironmentFault):
        require_proxy("http://outside.example", found)


def test_a_free_port_is_none_that_an_outgoing_connection_gets() -> None:
    found = []
    for _ in range(20):
        # Programs that are seeded alike do not choose alike.
        random.seed(0)
        found.append(free_port())
    assert len(set(found)) > 10
    assert all(port in PORTS for port in found)
    with socket.socket() as server, socket.socket() as other:
        server.bind(("127.0.0.1", found[-1]))
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", found[-1]))


def test_taken_ports_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        taken = server.getsockname()[1]
        monkeypatch.setattr(loopback, "ATTEMPTS", 1)
        monkeypatch.setattr(loopback, "PORTS", range(taken, taken + 1))
        assert free_port() != taken
