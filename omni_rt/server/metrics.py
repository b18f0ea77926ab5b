"""What the server counts and times, for /metrics."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from omni_rt.session.moments import Moments
from omni_rt.transport.base import Transport
from omni_rt.transport.webrtc import WebRtcTransport

_FATES = ("packets", "lost", "recovered", "late", "reordered", "corrupt")
_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


class Metrics:
    """One registry per server; the spans' names are those of the benchmarks."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sessions = Gauge("omni_sessions", "Sessions being served", registry=self.registry)
        self.opened = Counter("omni_sessions_opened", "Sessions opened", ["transport"], registry=self.registry)
        self.refused = Counter("omni_sessions_refused", "Sessions refused", ["code"], registry=self.registry)
        self.worker_restarts = Gauge("omni_worker_restarts", "Engine worker restarts so far", registry=self.registry)
        self.tasks = Gauge("omni_tasks", "Tasks of the event loop", registry=self.registry)
        self.input_buffered_ms = Gauge(
            "omni_input_buffered_ms", "Microphone audio held back, largest of all sessions", registry=self.registry
        )
        self.input_packets = Gauge(
            "omni_input_packets", "Microphone packets of open sessions by fate", ["fate"], registry=self.registry
        )
        self.output_underruns = Gauge(
            "omni_output_underruns", "Times the voice of open sessions ran dry", registry=self.registry
        )
        self.spans = Histogram(
            "omni_span_seconds", "Time between two moments", ["span"], buckets=_BUCKETS, registry=self.registry
        )

    def observe(self, moments: Moments) -> None:
        """Record the spans of a turn that have become known."""
        for name, span in moments.new_spans().items():
            self.spans.labels(name).observe(max(0.0, span) / 1000)

    def observe_transports(self, transports: Iterable[Transport | None]) -> None:
        """Read the counters of all open WebRTC connections."""
        stats = [transport.stats() for transport in transports if isinstance(transport, WebRtcTransport)]
        received = [one.received for one in stats]
        self.input_buffered_ms.set(max((one.buffered_ms for one in received), default=0))
        for fate in _FATES:
            self.input_packets.labels(fate).set(sum(getattr(one, fate) for one in received))
        self.output_underruns.set(sum(one.underruns for one in stats))

    def render(self) -> bytes:
        return generate_latest(self.registry)
