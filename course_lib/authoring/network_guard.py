"""No network while notebooks are built: a kernel that tries to reach one stops with a clear error.

An audit hook sees every connection that Python code opens, in the kernel and in the Python
processes it starts. Loopback and local sockets are allowed. Programs that are not Python, and
extensions that call the system's sockets directly, are not seen.

This file is run by path from a `sitecustomize` before anything else is imported, so it imports
nothing of the course.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import sys
from typing import Any

LOG_VARIABLE = "COURSE_NETWORK_LOG"
_LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_CONNECTIONS = ("socket.connect", "socket.sendto", "socket.sendmsg")


class NetworkBlocked(RuntimeError):
    """Raised in a notebook that tries to reach the network while it is built."""


def install() -> None:
    """Watch this process from now on. An audit hook cannot be removed."""
    own_name = socket.gethostname()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not event.startswith("socket."):
            return
        target = attempted(event, arguments, own_name)
        if target is not None:
            _record(target)
            raise NetworkBlocked(f"a lesson may not use the network, but this cell tried to reach {target}")

    sys.addaudithook(hook)


def attempted(event: str, arguments: tuple[Any, ...], own_name: str = "") -> str | None:
    """The "host:port" that an audited call would reach, or None if it stays on this machine."""
    if event in _LOOKUPS:
        host, port = arguments[0], arguments[1] if event == _LOOKUPS[0] else None
    elif event in _CONNECTIONS and arguments[0].family in (socket.AF_INET, socket.AF_INET6):
        address = arguments[1]
        if not isinstance(address, tuple):
            return None
        host, port = address[0], address[1]
    else:
        return None
    name = host.decode(errors="replace") if isinstance(host, bytes) else host
    if name is None or name == own_name or is_local(name):
        return None
    return f"{name}:{port}" if port else str(name)


def is_local(host: str) -> bool:
    """Whether a host name or address means this machine."""
    if host in ("", "localhost", "ip6-localhost", "0.0.0.0", "::"):
        return True
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _record(target: str) -> None:
    """Note the attempt where the build sees it, should the cell catch the error."""
    path = os.environ.get(LOG_VARIABLE)
    if path:
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as log:  # noqa: PTH123
            log.write(target + "\n")
