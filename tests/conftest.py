"""What holds for all tests."""

from __future__ import annotations

from importlib.util import find_spec

# Machines that only run the model's own tests have no pydantic, and there no session can send an event.
_PLUGINS = ("strict_events", "stage", "socket_talk", "dashscope_line")
pytest_plugins = [f"tests.support.{name}" for name in _PLUGINS] if find_spec("pydantic") else []

# How long an example takes is no matter: tests that only compute give way to the others.
if find_spec("hypothesis"):
    from hypothesis import settings

    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")
