"""The address that the server listens on."""

from __future__ import annotations

import errno
import os
import socket

# An address that this machine has not, as ::1 of `localhost` where there is no IPv6.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class AddressError(Exception):
    """Nothing can be listened to there; the message names the cause and the remedy."""


def reserve(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to `port` of each address of `host`, for a server to listen on; one of them at least.

    `port` 0 is any that is free; all sockets have the same. Connections are refused until a server listens. Raises
    AddressError.
    """
    bound: list[socket.socket] = []
    try:
        infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for place, (family, kind, protocol, _, address) in enumerate(infos):
            try:
                bound.append(_bind(family, kind, protocol, (address[0], port, *address[2:])))
            except OSError as error:
                if error.errno not in _NOT_HERE or (place == len(infos) - 1 and not bound):
                    raise
                continue
            port = port_of(bound)
    except OSError as error:
        for listener in bound:
            listener.close()
        raise _refused(host, port, error) from None
    return bound


def listen(listeners: list[socket.socket]) -> None:
    """From here on connections are taken, or wait to be. Raises AddressError: of servers that were started at the same
    moment one alone can listen."""
    try:
        for listener in listeners:
            listener.listen()
    except OSError as error:
        host, port = listeners[0].getsockname()[:2]
        raise _refused(host, port, error) from None


def port_of(listeners: list[socket.socket]) -> int:
    """The port that `listeners` are bound to."""
    port: int = listeners[0].getsockname()[1]
    return port


def _bind(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it takes the port from whoever listens
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _refused(host: str, port: int, error: OSError) -> AddressError:
    remedy = {
        errno.EADDRINUSE: "another server may be running; --port takes another port",
        errno.EACCES: "--port takes a port from 1024 on without special rights",
    }.get(error.errno or 0, "--host takes an address of this machine")
    return AddressError(f"{host}:{port}: {error.strerror or error}; {remedy}")
