"""The server: the page, calls, the WebSocket, health and metrics, in one process beside the engine's worker."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
from functools import partial
from pathlib import Path

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from omni_rt.config import Settings, cache_dir
from omni_rt.engine.api import Engine, EngineError
from omni_rt.engine.remote import RemoteEngine
from omni_rt.engine.witness import WitnessedEngine, witness_settings
from omni_rt.media.hearing import Ears, Hearing, Report
from omni_rt.models.store import ModelMissing, ModelStore
from omni_rt.server import dashscope
from omni_rt.server.address import AddressError, listen, port_of, reserve
from omni_rt.server.calls import Calls
from omni_rt.server.door import Door, Guard, cross_origin
from omni_rt.server.metrics import Metrics

log = logging.getLogger(__name__)

WEB_DIR = Path(__file__).resolve().parents[2] / "web"
# Larger events than the protocol layer takes must still reach it, so that it can refuse them by name.
WEBSOCKET_FRAME_LIMIT = 64 * 2**20


def api_routes(calls: Calls, door: Door) -> list[BaseRoute]:
    """The protocol's endpoints, each behind the door."""
    guard = [Middleware(Guard, door)]
    return [
        Route("/v1/realtime/calls", calls.create, methods=["POST"], middleware=guard),
        Route("/v1/realtime/calls/{call_id}/hangup", calls.hangup, methods=["POST"], middleware=guard),
        Route("/v1/realtime/client_secrets", calls.make_client_secret, methods=["POST"], middleware=guard),
        Route("/v1/realtime/ice_servers", calls.tell_ice_servers, methods=["GET"], middleware=guard),
        WebSocketRoute("/v1/realtime", calls.websocket, middleware=guard),
        WebSocketRoute("/api-ws/v1/realtime", partial(dashscope.serve, calls), middleware=guard),
    ]


class Server:
    """Everything one server process holds."""

    def __init__(self, settings: Settings) -> None:
        """Raises KeysError when the keys cannot be used, or are missing where others reach the server."""
        self.settings = settings
        self.engine = RemoteEngine(settings)
        self.witness: RemoteEngine | None = None
        self._serving: Engine = self.engine
        if settings.has_witness:
            self.witness = RemoteEngine(witness_settings(settings))
            self._serving = WitnessedEngine(self.engine, self.witness)
        self.metrics = Metrics()
        self._ears: Ears | None = None
        self.door = Door(settings.server)
        self.calls = Calls(settings, self._serving, self._listen, self.metrics, self.door.ephemeral)
        self.app = Starlette(
            routes=[
                *api_routes(self.calls, self.door),
                Route("/metrics", self.show_metrics, middleware=[Middleware(Guard, self.door)]),
                Route("/healthz", self.healthz),
                Route("/readyz", self.readyz),
                Mount("/", StaticFiles(directory=WEB_DIR, html=True)),
            ],
            middleware=cross_origin(settings.server.cors_origins),
        )

    async def start(self) -> None:
        """Load everything. Raises ModelMissing or EngineError with the cause and the remedy."""
        store = ModelStore(cache_dir())
        vad, smart_turn = (store.path(name) for name in ("silero-vad-v6", "smart-turn-v3.2"))
        self._ears = await asyncio.to_thread(Ears.load, vad, smart_turn, self.settings.media.echo)
        await self._serving.start()

    async def stop(self) -> None:
        """End all sessions and the engine's worker."""
        await self.calls.places.close("the server is shutting down")
        await self._serving.close()
        if self._ears is not None:
            self._ears.close()

    def _listen(self, report: Report) -> Hearing:
        assert self._ears is not None
        return self._ears.listen(report)

    async def healthz(self, _: Request) -> Response:
        """The process lives."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        """New sessions can be served: 200, else 503 and why not."""
        health = self.engine.health
        body = {
            "status": health.state,
            "engine": self.settings.engine.kind,
            "pid": os.getpid(),
            "worker_pid": health.pid,
            "worker_restarts": health.restarts,
            "message": health.message,
            "sessions": len(self.calls.places),
            "max_sessions": self.settings.server.max_sessions,
        }
        if self.witness is not None:
            body["witness"] = self.witness.health.state
        return JSONResponse(body, 200 if health.state == "ready" else 503)

    async def show_metrics(self, _: Request) -> Response:
        self.metrics.tasks.set(len(asyncio.all_tasks()))
        self.metrics.worker_restarts.set(self.engine.health.restarts)
        self.metrics.observe_transports(session.transport for session in self.calls.places)
        return Response(self.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def serve(settings: Settings) -> int:
    """Serve until interrupted; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("aioice").setLevel(logging.WARNING)
    try:
        listeners = reserve(settings.server.host, settings.server.port)
    except AddressError as error:
        log.error("the server cannot start: %s", error)
        return 1
    if sys.platform == "win32":
        return asyncio.run(_serve(settings, listeners))
    import uvloop

    return uvloop.run(_serve(settings, listeners))


async def _serve(settings: Settings, listeners: list[socket.socket]) -> int:
    server = Server(settings)
    config = uvicorn.Config(
        server.app,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws_max_size=WEBSOCKET_FRAME_LIMIT,
        timeout_graceful_shutdown=5,
    )
    http = uvicorn.Server(config)
    try:
        await server.start()
        # else a full collection looks at all that was loaded, and holds the event loop for some 30 ms
        gc.collect()
        gc.freeze()
        listen(listeners)
        log.info("ready: http://%s:%d", settings.server.host, port_of(listeners))
        await http.serve(listeners)
    except (EngineError, ModelMissing, AddressError) as error:
        log.error("the server cannot start: %s", error)
        return 1
    finally:
        for listener in listeners:
            listener.close()
        await server.stop()
    return 0 if http.started else 1
