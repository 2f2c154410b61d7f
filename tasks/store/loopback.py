"""Servers on this machine: a free port for one, and no proxy between them and us.

Every HTTP client reads the proxy variables of the environment in its own way, and httpx builds a transport for each
proxy when a client is made: a proxy that it cannot use (SOCKS without its package, an unknown scheme, a malformed
address) fails all requests, also those to 127.0.0.1. Such a variable is set aside. Code that needs another machine
calls `require_proxy` first, so that no request bypasses the proxy that the user asked for.
"""

import ipaddress
import logging
import os
import random
import socket
import urllib.request
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import suppress
from urllib.parse import urlsplit

from tasks.core.errors import EnvironmentFault

logger = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
# Variable with the names of those that were set aside and the reasons: `ALL_PROXY=reason;HTTPS_PROXY=reason`.
SET_ASIDE = "CRASH_PROXIES_SET_ASIDE"
SOCKS_PACKAGES = "pip install socksio PySocks"
# Below the ports that systems give to outgoing connections, any of which may get one before its server has started.
PORTS = range(20_000, 32_000)
ATTEMPTS = 100


def free_port() -> int:
    """Return a loopback port on which nothing listens now; processes that ask at the same time get different ones."""
    # Not the generator that others seed.
    for port in random.SystemRandom().sample(PORTS, ATTEMPTS):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port: int) -> bool:
    """Whether a program on this machine accepts connections at this loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def keep_loopback_direct(environment: MutableMapping[str, str], own_hosts: Iterable[str] = ()) -> None:
    """Change proxy variables so that servers on this machine are reached directly; no change if none is set.

    own_hosts: further names or addresses of this machine. Call it before the first HTTP client is made.
    """
    given = {name: value for name, value in environment.items() if name.lower() in (*PROXIES, "no_proxy")}
    if not given:
        return
    for name, value in given.items():
        if name.lower() != "no_proxy" and value.strip():
            _settle(environment, name, value)
    exceptions = {name: value for name, value in given.items() if name.lower() == "no_proxy"} or {"no_proxy": ""}
    known = {value: _with_loopback(value, own_hosts) for value in exceptions.values()}
    # Some programs read one, some the other; Python prefers the second if both are set.
    for name in ("NO_PROXY", "no_proxy"):
        environment[name] = known[exceptions.get(name, next(iter(exceptions.values())))]


def require_proxy(address: str, environment: Mapping[str, str]) -> None:
    """Check that the proxy that applies to an address, if any, can be used.

    Raises:
        EnvironmentFault: when that proxy was set aside; the message says why.
    """
    parts = urlsplit(address)
    host, noted = parts.hostname or "", environment.get(SET_ASIDE)
    if not noted or not host or is_loopback(host):
        return
    reasons = dict(note.split("=", 1) for note in noted.split(";"))
    proxies = {"no": environment.get("no_proxy") or environment.get("NO_PROXY") or ""}
    if urllib.request.proxy_bypass_environment(host, proxies):  # type: ignore[attr-defined]
        return
    for kind in (f"{parts.scheme}_proxy", "all_proxy"):
        if any(environment.get(name) for name in (kind, kind.upper())):
            return
        for name, reason in reasons.items():
            if name.lower() == kind:
                raise EnvironmentFault(f"{host} has to be reached through the proxy in {name}, but {reason}")


def require_hub() -> None:
    """Check that the proxy that applies to the hub, if any, can be used; no check in offline mode.

    Raises:
        EnvironmentFault: as `require_proxy`.
    """
    if not os.environ.get(SET_ASIDE):
        return
    from huggingface_hub import constants, is_offline_mode

    if not is_offline_mode():
        require_proxy(constants.ENDPOINT, os.environ)


def _settle(environment: MutableMapping[str, str], name: str, value: str) -> None:
    """Keep a proxy that HTTP clients can use, in the form that they know; set any other one aside."""
    # Desktops write socks:// for SOCKS 5.
    meant = "socks5" + value.strip()[5:] if value.strip().lower().startswith("socks://") else value.strip()
    if (reason := _unusable(meant)) is None:
        environment[name] = meant
        return
    del environment[name]
    before = environment.get(SET_ASIDE)
    environment[SET_ASIDE] = f"{before + ';' if before else ''}{name}={reason}"


def _unusable(value: str) -> str | None:
    """Return why no HTTP client can use this proxy; None if one can. Shows nothing of the value but its scheme."""
    import httpx

    address = value if "://" in value else f"http://{value}"
    try:
        httpx.HTTPTransport(proxy=address, verify=False).close()
    except ImportError:
        return f"SOCKS proxies need packages that are not installed: {SOCKS_PACKAGES}"
    except (ValueError, httpx.InvalidURL):
        scheme = address.partition("://")[0]
        if scheme.lower() in ("http", "https", "socks5", "socks5h"):
            return "its value is not a valid address: write http://host:port, and encode user and password by percent"
        return "its scheme is not known: use http, https, socks5 or socks5h"
    return None


def _with_loopback(value: str, own_hosts: Iterable[str]) -> str:
    """Return the list of hosts without a proxy, with this machine and without entries on which httpx fails."""
    if value.strip() == "*":
        return "*"
    kept = []
    for entry in (part.strip() for part in value.split(",")):
        known = entry[1:-1] if entry.startswith("[") and entry.endswith("]") else entry
        if known and _is_understood(known):
            kept.append(known)
        elif known:
            logger.warning("NO_PROXY: the entry %s is not a host that HTTP clients understand; it is left out", entry)
    kept += [host for host in (*LOOPBACK, *own_hosts) if host not in kept]
    return ",".join(kept)


def _is_understood(entry: str) -> bool:
    """Return whether httpx can parse an entry of NO_PROXY, by the rules of its `get_environment_proxies`."""
    import httpx

    try:
        address = ipaddress.ip_address(entry)
        pattern = f"all://[{entry}]" if address.version == 6 else f"all://{entry}"
    except ValueError:
        pattern = entry if "://" in entry else f"all://*{entry}"
    try:
        httpx.URL(pattern)
    except (httpx.InvalidURL, ValueError):
        return False
    return True


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
