"""What holds for all tests."""

from __future__ import annotations

from importlib.util import find_spec

# Machines that only run the model's own tests have no pydantic, and there no session can send an event.
pytest_plugins = ["tests.support.strict_events"] if find_spec("pydantic") else []
