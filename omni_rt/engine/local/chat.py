"""The chat model: llama.cpp's server inside this process, spoken to over a socket only this process can open.

Prompts are token ids. Each slot keeps the keys and values of the last prompt it was given and evaluates only what
differs from it, so a prompt that grows at its end costs what it grew by, and one cut at its end costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx

from omni_rt.engine.api import EngineError

_T = TypeVar("_T")

# Tokens that are evaluated in one go; others wait so long, a cancelled prefill runs on so long.
PREFILL_TOKENS = 16
_BATCH = 64
# Shortest stretch of tokens that is moved within the cache when tokens before it are dropped.
_MOVED_TOKENS = 16

# How much the chat model, which takes all cores, yields to what hears, speaks and judges beside it (Unix "nice").
_YIELDING = 5
# Threads of OpenMP that wait for work beside others give the core away after so many turns.
_SPIN = "10000"

# Of so many likeliest next tokens the probability is asked.
_LIKELIEST = 64
_STOPS = (".", "?", "!", "…", "。", "？", "！")


@dataclass(frozen=True, slots=True)
class Read:
    """A prompt is in the cache; `evaluated` of its tokens were not. `ending` is the probability that a sentence ends
    with it, if that was asked for."""

    evaluated: int
    ending: float | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Text the model wrote and the tokens that spell it."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Begun:
    """The prompt is read; `evaluated` of its tokens were not in the cache."""

    evaluated: int


@dataclass(frozen=True, slots=True)
class Written:
    """The end of a text: the model's own, or that of the tokens it was given."""

    reason: Literal["stop", "limit"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """`grammar` is in llguidance's form; empty means free text."""

    max_tokens: int
    temperature: float
    grammar: str = ""


class ChatModel:
    """Loaded by `start`. `slots` conversations of `context_tokens` each, numbered from 0."""

    def __init__(self, path: Path, slots: int, context_tokens: int, threads: int) -> None:
        self.path = path
        self.slots = slots
        self.context_tokens = context_tokens
        self._threads = threads
        self._server: Any = None
        self._folder = Path(tempfile.mkdtemp(prefix="omni-rt-"))
        self._client: httpx.AsyncClient

    async def start(self) -> None:
        """Raises EngineError."""
        key = secrets.token_hex(16)
        try:
            self._server = await _in_own_thread(partial(self._load, key))
        except RuntimeError as error:
            raise EngineError(
                "chat_model_failed",
                f"llama.cpp cannot serve {self.path} with {self.slots} x {self.context_tokens} tokens of context: "
                f"{error}; what it printed says why",
            ) from error
        address: str = self._server.listening_address
        path = address.removeprefix("unix://")
        local = path != address
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=path) if local else None,
            base_url="http://localhost" if local else address,
            # a connection that has streamed is not used again: the server closes it
            headers={"Authorization": f"Bearer {key}", "Connection": "close"},
            timeout=httpx.Timeout(None, connect=10.0),
            trust_env=False,
        )

    async def close(self) -> None:
        if self._server is not None:
            await self._client.aclose()
            await asyncio.to_thread(self._unload)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def tokenise(self, text: str, *, marks: bool = False) -> list[int]:
        """Token ids of `text`; only with `marks` are the names of special tokens taken as such."""
        answer = await self._post("/tokenize", {"content": text, "add_special": False, "parse_special": marks})
        tokens: list[int] = answer["tokens"]
        return tokens

    async def prefill(
        self, slot: int, prompt: Sequence[int], *, move: bool = False, judge: Sequence[int] | None = None
    ) -> Read:
        """Make `prompt` the slot's cache.

        With `move`, tokens behind a stretch that was dropped from the prompt keep what was computed for them. With
        `judge`, tokens that end a turn, it is told how likely one of these or a sentence's last mark comes next.
        """
        request = {
            **_slot(slot, prompt),
            "n_predict": 0 if judge is None else 1,
            "n_probs": 0 if judge is None else _LIKELIEST,
            "temperature": 0.0,
            "n_cache_reuse": _MOVED_TOKENS if move else 0,
            "response_fields": ["timings", "completion_probabilities"],
        }
        answer = await self._post("/completion", request)
        ending = None if judge is None else _ending(answer["completion_probabilities"][0]["top_logprobs"], judge)
        return Read(answer["timings"]["prompt_n"], ending)

    async def write(
        self, slot: int, prompt: Sequence[int], sampling: Sampling
    ) -> AsyncGenerator[Begun | Piece | Written, None]:
        """Continue `prompt`; closing the generator stops the model at its next token."""
        request = {
            **_slot(slot, prompt),
            "n_predict": sampling.max_tokens,
            "temperature": sampling.temperature,
            "grammar": sampling.grammar,
            "stream": True,
            "return_tokens": True,
            "timings_per_token": True,
            "response_fields": ["content", "tokens", "stop", "stop_type", "timings"],
        }
        written = -1
        with _explained():
            async with self._client.stream("POST", "/completion", json=request) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise _refusal(await answer.aread())
                async for line in answer.aiter_lines():
                    if not line:
                        continue
                    name, _, data = line.partition(": ")
                    if name != "data":
                        raise _refusal(data.encode() or line.encode())
                    event = json.loads(data)
                    if "error" in event:
                        raise _refusal(data.encode())
                    timings = event["timings"]
                    if written < 0:
                        written = 0
                        yield Begun(timings["prompt_n"])
                    if event.get("stop"):
                        yield Written("limit" if event["stop_type"] == "limit" else "stop")
                        return
                    text, ids = event["content"], tuple(event["tokens"])
                    if text and timings["predicted_n"] - written > len(ids):
                        # the tokens that make up only part of a character were not sent
                        ids = tuple(await self.tokenise(text))
                    if text:  # else it is the token that ends the text
                        written = timings["predicted_n"]
                        yield Piece(text, ids)
        raise EngineError("chat_failed", "the chat model stopped in the middle of a reply")

    async def _post(self, path: str, request: dict[str, Any]) -> Any:
        with _explained():
            answer = await self._client.post(path, json=request)
        if answer.status_code != httpx.codes.OK:
            raise _refusal(answer.content)
        return answer.json()

    def _load(self, key: str) -> Any:
        """In a thread of its own: the model's threads inherit how much it yields to others."""
        with contextlib.suppress(AttributeError, OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _YIELDING)
        # read by the OpenMP that comes with llama.cpp when it is loaded
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN)
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(self.path)
        params.n_ctx = self.context_tokens * self.slots
        params.n_parallel = self.slots
        params.kv_unified = False
        params.n_batch = params.n_ubatch = _BATCH
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._threads
        params.fit_params = False
        # a slot's cache is what its conversation left in it, nothing is kept or guessed beside that
        params.cache_ram_mib = 0
        params.cache_idle_slots = False
        params.n_ctx_checkpoints = 0
        params.slot_prompt_similarity = 0.0
        params.ctx_shift = False
        params.ui = False
        params.endpoint_slots = False
        params.verbosity = 1
        params.api_keys = [key]
        if hasattr(socket, "AF_UNIX"):
            params.hostnames = [str(self._folder / "chat.sock")]
        return xllamacpp.Server(params)

    def _unload(self) -> None:
        self._server = None


async def _in_own_thread(work: Callable[[], _T]) -> _T:
    with ThreadPoolExecutor(1, "chat-model") as thread:
        return await asyncio.get_running_loop().run_in_executor(thread, work)


def _slot(slot: int, prompt: Sequence[int]) -> dict[str, Any]:
    return {"id_slot": slot, "prompt": list(prompt), "cache_prompt": True}


def _ending(likeliest: Sequence[dict[str, Any]], ends: Sequence[int]) -> float:
    """Probability of what ends a sentence or a turn."""
    return sum(
        math.exp(token["logprob"])
        for token in likeliest
        if token["id"] in ends or token["token"].lstrip().startswith(_STOPS)
    )


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise EngineError("chat_failed", f"the chat model did not answer: {error!r}") from error


def _refusal(body: bytes) -> EngineError:
    try:
        refused = json.loads(body)
        message = refused.get("error", refused)["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        message = body.decode(errors="replace")[:300]
    return EngineError("chat_failed", f"the chat model refused: {message}")
