"""Requests made from the description of the HTTP endpoints, right and wrong: each is answered as described."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from starlette.routing import Mount, Route

from omni_rt.config import Settings
from omni_rt.server.app import Server
from tests.server.test_fuzz import undisturbed
from tests.support.echo_engine import ECHO
from tests.support.openapi import describe
from tests.support.server import RunningServer, running_server

pytestmark = pytest.mark.models

PER_OPERATION = 50
SECRETS = "/v1/realtime/client_secrets"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("http"), factory=ECHO) as running:
        yield running


def test_the_description_has_all_endpoints() -> None:
    routes = [route for route in Server(Settings()).app.routes if isinstance(route, Route)]
    served = {(route.path, method) for route in routes for method in (route.methods or set()) - {"HEAD"}}
    told = {(path, method.upper()) for path, methods in describe()["paths"].items() for method in methods}
    assert served == told
    assert any(isinstance(route, Mount) for route in Server(Settings()).app.routes)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
async def test_requests(target: RunningServer, mode: GenerationMode) -> None:
    async with undisturbed(target) as bystander:
        answers = await asyncio.to_thread(_try, target.url, mode)
        await bystander.goes_on()
    assert answers[SECRETS, 200 if mode is GenerationMode.POSITIVE else 400] > PER_OPERATION // 10, answers


def _try(url: str, mode: GenerationMode) -> Counter[tuple[str, int]]:
    """How often each path gave each status."""
    schema = schemathesis.openapi.from_dict(describe())
    answers: Counter[tuple[str, int]] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and operation.path != SECRETS:
            continue  # the others take nothing, or any text

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=PER_OPERATION,
            derandomize=True,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        def one(case: Case) -> None:
            answer = case.call_and_validate(base_url=url, checks=CHECKS)
            answers[case.operation.path, answer.status_code] += 1

        one()
    return answers
