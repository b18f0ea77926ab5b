"""Where the server listens: real sockets."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from omni_rt.config import load
from omni_rt.server.address import AddressError, listen, port_of, reserve
from omni_rt.server.app import serve


@contextmanager
def reserved(host: str, port: int = 0) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(listener)) for listener in reserve(host, port)]


def test_nobody_else_gets_a_free_port_that_was_reserved() -> None:
    with reserved("127.0.0.1") as first, reserved("127.0.0.1") as second:
        assert port_of(first) != port_of(second)


def test_connections_are_refused_until_it_listens() -> None:
    with reserved("127.0.0.1") as listeners:
        address = ("127.0.0.1", port_of(listeners))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)
        listen(listeners)
        socket.create_connection(address, timeout=5).close()


def test_all_addresses_of_a_name_have_one_port() -> None:
    with reserved("localhost") as listeners:
        assert {listener.getsockname()[1] for listener in listeners} == {port_of(listeners)}
        listen(listeners)
        socket.create_connection(("localhost", port_of(listeners)), timeout=5).close()


def test_a_taken_port_is_told_at_once() -> None:
    with reserved("127.0.0.1") as listeners:
        listen(listeners)
        port = port_of(listeners)
        with pytest.raises(AddressError, match=rf"^127.0.0.1:{port}: .*; another server may be running; --port takes"):
            reserve("127.0.0.1", port)


def test_of_two_that_start_at_once_one_listens() -> None:
    with reserved("127.0.0.1") as first, reserved("127.0.0.1", port_of(first)) as second:
        listen(first)
        with pytest.raises(AddressError, match="another server may be running"):
            listen(second)


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(AddressError, match=rf"^{host}:8080: .*; --host takes an address of this machine"):
        reserve(host, 8080)


def test_a_server_whose_port_is_taken_ends_before_it_loads_anything(caplog: pytest.LogCaptureFixture) -> None:
    with reserved("127.0.0.1") as listeners, caplog.at_level(logging.ERROR):
        listen(listeners)
        settings = load(None, [f"server.port={port_of(listeners)}", "local.chat_model=/nowhere.gguf"])
        assert serve(settings) == 1
    assert "another server may be running; --port takes another port" in caplog.text
    assert "nowhere.gguf" not in caplog.text
