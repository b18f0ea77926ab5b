"""One validated settings model: every default stated once; a TOML file and `--set section.key=value` override it."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

API_KEY_ENV = "OMNI_RT_API_KEY"
"""The environment variable that holds a key: one the server takes, or the one a client of ours sends."""


# What aiortc can read: it knows no IPv6 address in a URL.
_ICE_URL = r"^(stuns?:[^?:\s]+(:\d{1,5})?|turns?:[^?:\s]+(:\d{1,5})?(\?transport=(udp|tcp))?)$"


class ConfigError(Exception):
    """A setting is unknown or out of range; the message names the key and what is allowed."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class IceServer(Section):
    """A STUN or TURN server, as browsers are told of one; in settings its URL alone will do."""

    ALLOWED: ClassVar[str] = "a list of stun: and turn: URLs, or of {urls, username, credential}"

    urls: tuple[Annotated[str, Field(pattern=_ICE_URL)], ...] = Field(min_length=1)
    username: str = ""
    credential: str = Field("", repr=False)

    @model_validator(mode="before")
    @classmethod
    def _from_url(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"urls": (value,)}
        if isinstance(value, Mapping) and isinstance(value.get("urls"), str):
            return {**value, "urls": (value["urls"],)}
        return value

    @property
    def is_turn(self) -> bool:
        return any(url.startswith("turn") for url in self.urls)


class ServerSettings(Section):
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="TCP port of page and API; 0: any that is free")
    max_sessions: int = Field(3, ge=1, le=1000, description="sessions served at once; one more is told 'busy'")
    keys_file: str = Field("", description="file of API keys, made by `omni-rt keys`; empty: none")
    allow_without_keys: bool = Field(False, description="serve other machines although no API key is set")
    cors_origins: tuple[str, ...] = Field(
        (), description="origins (https://host:port) whose pages may use the API; '*' is all"
    )
    max_sessions_per_key: int = Field(
        0, ge=0, le=1000, description="sessions of one API key at once; 0: as many as there are places"
    )
    idle_s: float = Field(
        600.0, ge=0.0, le=86_400.0, description="seconds without sound, event or reply that end a session; 0: no limit"
    )
    max_session_s: float = Field(
        0.0, ge=0.0, le=604_800.0, description="seconds after which any session ends; 0: no limit"
    )
    max_event_bytes: int = Field(15 * 2**20, ge=1024, le=64 * 2**20, description="largest client event")
    max_append_bytes: int = Field(
        10 * 2**20, ge=1024, le=48 * 2**20, description="largest audio of one append, in bytes before base64"
    )
    max_buffered_audio_s: int = Field(
        300, ge=10, le=1800, description="longest utterance kept, and most audio that waits for the client's commit"
    )
    max_items: int = Field(1000, ge=10, le=100_000, description="most items of a conversation")
    max_item_characters: int = Field(
        100_000, ge=1000, le=2**20, description="most text of an item that a client makes, in characters"
    )
    max_item_bytes: int = Field(
        10 * 2**20, ge=1024, le=64 * 2**20, description="most sound and pictures of such an item, in bytes of base64"
    )
    silent_transport_s: float = Field(
        10.0, ge=1.0, le=120.0, description="seconds without any packet after which a WebRTC client counts as gone"
    )
    ice_servers: tuple[IceServer, ...] = Field((), repr=False, description="STUN and TURN servers for both ends")
    turn_secret: str = Field(
        "", repr=False, description="secret shared with the TURN server, for credentials that expire (coturn's way)"
    )
    turn_ttl_s: int = Field(86_400, ge=60, le=604_800, description="seconds that such credentials are good for")

    @model_validator(mode="after")
    def _turn_has_credentials(self) -> ServerSettings:
        if not self.turn_secret and any(s.is_turn and not (s.username and s.credential) for s in self.ice_servers):
            raise ValueError("a turn: server needs a username and a credential, or server.turn_secret for all")
        return self


class EngineSettings(Section):
    kind: Literal["local", "qwen3_omni"] = Field("local", description="which engine answers")
    restart_limit: int = Field(3, ge=0, le=100, description="worker restarts within a minute before giving up")
    witness: Literal["none", "local"] = Field(
        "none",
        description="local: the local engine listens too and tells, by English words, whether a turn is over, which "
        "qwen3_omni cannot, and what is said over a reply",
    )


class LocalSettings(Section):
    chat_model: str = Field(
        "qwen2.5-coder-1.5b-instruct-q4_k_m",
        description="a name of the manifest, a path to a .gguf file, or hub:OWNER/REPO/FILE.gguf",
    )
    threads: int = Field(0, ge=0, le=256, description="threads of the chat model; 0 takes one per core, two at least")
    context_tokens: int = Field(4096, ge=1024, le=32768, description="context per session")
    max_reply_tokens: int = Field(160, ge=8, le=4096, description="longest reply")
    temperature: float = Field(0.3, ge=0.0, le=2.0, description="sampling temperature when the client names none")
    partial_every_ms: int = Field(480, ge=100, le=5000, description="how often the open utterance is recognised again")
    eyes: bool = Field(True, description="describe camera frames (objects and printed words) in the prompt")


class QwenSettings(Section):
    weights: str = Field(
        "",
        description="a checkpoint folder, or random:30b-a3b[:SEED] or random:tiny[:SEED] for random weights",
    )
    device: str = Field("auto", description="cuda, cuda:N or cpu; auto takes a GPU when there is one")
    dtype: Literal["auto", "bfloat16", "float32"] = Field("auto", description="auto: bfloat16 on a GPU, else float32")
    machine: Literal["auto", "fast", "plain"] = Field(
        "auto", description="fast: kernels and CUDA graphs; plain: PyTorch; auto: fast on a GPU in bfloat16"
    )
    quantisation: Literal["none", "fp8"] = Field(
        "none", description="fp8: decoders' weights in 8 bit, by the fast machine on a GPU of compute capability 8.9"
    )
    attention: Literal["auto", "triton", "flash", "sdpa"] = Field(
        "auto",
        description="triton: our kernel; flash: flash-attn; sdpa: PyTorch; auto: triton where fast, sdpa where plain",
    )
    voice: str = Field("", description="voice of sessions that name none; empty: Ethan, else the model's first")
    audio_window_s: Literal[1, 2, 8] = Field(2, description="seconds of speech encoded together; 8: the offline result")
    context_tokens: int = Field(24_576, ge=512, le=65_536, description="context per session")
    cache_tokens: int = Field(
        0, ge=0, le=10_000_000, description="context of all sessions together; 0 gives each its whole context"
    )
    max_reply_tokens: int = Field(1024, ge=8, le=8192, description="longest reply, in text tokens")
    frame_tokens: int = Field(300, ge=4, le=16_384, description="largest picture, in tokens of 32 x 32 pixels")
    turn_frame_tokens: int = Field(3000, ge=0, le=32_768, description="tokens for all pictures of one turn")
    mix: Literal["separate", "interleaved"] = Field(
        "separate", description="camera and voice: pictures between audio segments, or one audio-in-video segment"
    )
    frame_pairs: bool = Field(
        False, description="in separate segments: show the camera two frames at a time, at half the tokens a frame"
    )
    transcripts: bool = Field(True, description="let the model write down what the user said")


class TurnSettings(Section):
    vad_threshold: float = Field(0.5, ge=0.05, le=0.95, description="speech probability that counts as speech")
    onset_ms: int = Field(96, ge=32, le=500, description="speech needed to open an utterance")
    pre_roll_ms: int = Field(300, ge=0, le=2000, description="audio kept from before the onset")
    check_silence_ms: int = Field(32, ge=32, le=2000, description="silence after which the end of turn is judged")
    least_silence_ms: int = Field(64, ge=64, le=2000, description="silence before which no turn ends")
    brief_silence_ms: int = Field(
        480,
        ge=0,
        le=2000,
        description="silence before which two or three words, if known, are no turn; a question or an answer is",
    )
    speculate_ms: int = Field(64, ge=0, le=2000, description="silence after which a reply starts unheard; 0: never")
    complete_score: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="end-of-turn score from which little doubt is left that a turn is over",
    )
    sure_score: float = Field(0.93, ge=0.0, le=1.0, description="end-of-turn score that ends a long turn at once")
    words_ms: int = Field(
        512, ge=0, le=2000, description="silence within which the words are waited for, with engines that judge them"
    )
    silence_limit_ms: int = Field(1600, ge=200, le=10000, description="silence that ends a turn whatever the score")
    interrupt_ms: int = Field(
        224,
        ge=64,
        le=2000,
        description="speech over a reply that interrupts it where its words are unknown",
    )
    by_words: bool = Field(
        True, description="let the words of speech over a reply decide what it is, with engines that can tell them"
    )
    hold_ms: int = Field(96, ge=64, le=2000, description="speech over a reply that holds it until that is decided")
    duck_threshold: float = Field(
        0.15, ge=0.01, le=0.95, description="speech probability of a sound over a reply that makes it softer"
    )
    duck_gain: float = Field(0.2, ge=0.0, le=1.0, description="loudness of the reply while an overlap is judged")


class MediaSettings(Section):
    echo: bool = Field(True, description="do not take the assistant's own voice in the microphone for speech")
    opus_bitrate: int = Field(32_000, ge=8_000, le=128_000, description="bit/s of the assistant's voice")
    opus_complexity: int = Field(5, ge=0, le=10, description="encoder effort")
    reorder_packets: int = Field(3, ge=1, le=10, description="packets a hole may wait for a late one")
    reorder_ms: int = Field(60, ge=20, le=200, description="longest wait of a hole when nothing follows it")
    conceal_limit_ms: int = Field(200, ge=20, le=1000, description="longest stretch invented for lost packets")
    frames_per_second: float = Field(1.0, ge=0.1, le=5.0, description="camera pictures looked at per second")
    frame_pixels: int = Field(640, ge=128, le=1920, description="longer side of a picture handed to the engine")


class ModelSettings(Section):
    hub_timeout_s: float = Field(3.0, ge=0.5, le=60.0, description="how long to wait for the model hub to answer")
    registry_timeout_s: float = Field(30.0, ge=1.0, le=600.0, description="how long a package download may stall")
    parallel: int = Field(4, ge=1, le=16, description="downloads at once")


class Settings(Section):
    server: ServerSettings = ServerSettings()
    engine: EngineSettings = EngineSettings()
    local: LocalSettings = LocalSettings()
    qwen: QwenSettings = QwenSettings()
    turn: TurnSettings = TurnSettings()
    media: MediaSettings = MediaSettings()
    models: ModelSettings = ModelSettings()

    @property
    def has_witness(self) -> bool:
        """Whether the local engine runs as a witness."""
        return self.engine.witness == "local" and self.engine.kind != "local"

    @property
    def uses_local(self) -> bool:
        """Whether the local engine runs, be it as a witness."""
        return self.engine.kind == "local" or self.has_witness


def cache_dir() -> Path:
    """Where model files live: `OMNI_RT_CACHE`, else `omni_rt` under the user's cache folder."""
    if named := os.environ.get("OMNI_RT_CACHE"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "omni_rt"


def load(path: Path | None = None, overrides: Iterable[str] = ()) -> Settings:
    """Settings from a TOML file, then `section.key=value` overrides. Raises ConfigError."""
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
    for override in overrides:
        key, sep, value = override.partition("=")
        section, dot, name = key.strip().partition(".")
        if not sep or not dot:
            raise ConfigError(f"--set takes section.key=value, not {override!r}")
        table = data.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{section} is a section and takes keys, not a value")
        table[name] = _literal(value.strip())
    return validate(data)


def validate(data: Mapping[str, Any]) -> Settings:
    """Check a nested mapping. Raises ConfigError listing each bad key with the allowed values."""
    try:
        return Settings.model_validate(dict(data))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(dict(e)) for e in error.errors())) from error


def describe() -> Iterable[tuple[str, Any, str, str]]:
    """Every key with its default, what it may be, and what it is for."""
    for section_name, section in Settings.model_fields.items():
        model = section.annotation
        assert isinstance(model, type)
        assert issubclass(model, Section)
        for name, info in model.model_fields.items():
            yield f"{section_name}.{name}", info.default, _allowed(model, name), info.description or ""


def _literal(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(error: dict[str, Any]) -> str:
    path = tuple(str(part) for part in error["loc"])
    key = ".".join(path)
    section = Settings.model_fields.get(path[0])
    if section is None:
        return f"unknown section {path[0]!r}; there are: {', '.join(Settings.model_fields)}"
    model = section.annotation
    assert isinstance(model, type)
    assert issubclass(model, Section)
    if error["type"] == "extra_forbidden" and len(path) == 2:
        return f"unknown key {key!r}; [{path[0]}] takes: {', '.join(model.model_fields)}"
    if len(path) == 1 or path[1] not in model.model_fields:
        return f"{key}: {error['msg']}"
    return f"{key} = {error['input']!r} is not allowed; it takes {_allowed(model, path[1])}"


def _allowed(model: type[Section], name: str) -> str:
    info = model.model_fields[name]
    kind = info.annotation
    origin = get_origin(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if origin is tuple:
        return IceServer.ALLOWED if get_args(kind)[0] is IceServer else "a list of strings"
    if origin in (Union, UnionType, Annotated):
        return str(kind)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}[kind]  # type: ignore[index]
    bounds = {type(m).__name__: m for m in info.metadata}
    if "Ge" in bounds and "Le" in bounds:
        words += f" from {bounds['Ge'].ge} to {bounds['Le'].le}"
    return words
