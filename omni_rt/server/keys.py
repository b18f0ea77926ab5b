"""API keys: long random strings, of which the server keeps salted hashes only.

A keys file has one key a line, `NAME sha256:SALT:DIGEST` in hexadecimal; `#` begins a comment. A key has 256 random
bits, so one round of SHA-256 is as hard to turn back as many.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omni_rt.config import API_KEY_ENV, ServerSettings

log = logging.getLogger(__name__)

# A key that a person thought up may be guessed; one this long at least was not typed in passing.
LEAST_KEY_CHARACTERS = 20
# A subprotocol of a WebSocket is a token (RFC 9110), so a key is one too.
_KEY = re.compile(r"[A-Za-z0-9._~-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_LINE = re.compile(r"(\S+)\s+sha256:([0-9a-f]{32}):([0-9a-f]{64})")


class KeysError(Exception):
    """A keys file or a key cannot be used; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Key:
    """The hash of one key and its holder's name."""

    name: str
    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, name: str, key: str) -> Key:
        salt = secrets.token_bytes(16)
        return cls(name, salt, _digest(salt, key))

    def opens(self, key: str) -> bool:
        """Whether this is the key; takes as long either way."""
        return hmac.compare_digest(self.digest, _digest(self.salt, key))

    def line(self) -> str:
        return f"{self.name} sha256:{self.salt.hex()}:{self.digest.hex()}"


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file. Raises KeysError with the line that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise KeysError(f"there is no keys file {path}; `omni-rt keys add NAME --file {path}` makes it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"cannot read the keys file {path}: {error}") from error
    keys: dict[str, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.partition("#")[0].strip()
        if not bare:
            continue
        found = _LINE.fullmatch(bare)
        if found is None or not _NAME.fullmatch(found[1]) or found[1] in keys:
            raise KeysError(f"{path}, line {number}: not a new NAME and sha256:SALT:DIGEST")
        keys[found[1]] = Key(found[1], bytes.fromhex(found[2]), bytes.fromhex(found[3]))
    return tuple(keys.values())


def add_key(path: Path, name: str) -> str:
    """Make a key for `name` and keep its hash; gives the key, which nobody can find out again. Raises KeysError."""
    if not _NAME.fullmatch(name):
        raise KeysError(f"{name!r} is no name for a key: letters, digits and . _ @ -, 64 at most")
    keys = read_keys(path) if path.exists() else ()
    if any(key.name == name for key in keys):
        raise KeysError(f"there is a key named {name!r} in {path}; remove it first, or choose another name")
    made = f"ok_{secrets.token_urlsafe(32)}"
    _write(path, (*keys, Key.of(name, made)))
    return made


def remove_key(path: Path, name: str) -> None:
    """Take a key away; a running server knows at once. Raises KeysError."""
    keys = read_keys(path)
    left = tuple(key for key in keys if key.name != name)
    if len(left) == len(keys):
        raise KeysError(f"there is no key named {name!r} in {path}")
    _write(path, left)


class KeyRing:
    """The keys that a server takes: those of a file, read again when it changes, and one of the environment."""

    def __init__(self, path: Path | None = None, environment: Mapping[str, str] = os.environ) -> None:
        """Raises KeysError when a file is named that cannot be read or has no key, or the environment's is poor."""
        self._path = path
        self._stamp = _stamp(path)
        self._of_file = read_keys(path) if path is not None else ()
        if path is not None and not self._of_file:
            raise KeysError(f"the keys file {path} has no key; `omni-rt keys add NAME --file {path}` makes one")
        named = environment.get(API_KEY_ENV, "")
        if named and (len(named) < LEAST_KEY_CHARACTERS or not _KEY.fullmatch(named)):
            raise KeysError(
                f"{API_KEY_ENV} must have {LEAST_KEY_CHARACTERS} characters or more, of letters, digits and . _ ~ -"
            )
        self._of_environment = (Key.of(API_KEY_ENV, named),) if named else ()
        self.needed = bool(self._of_file or self._of_environment)
        """Whether a key must be given; stays true when the last key is removed."""

    def holder(self, key: str) -> str | None:
        """The name of who holds this key, None if nobody does. All keys are compared, so time tells nothing."""
        matches = [each.name for each in self._keys() if each.opens(key)]
        return matches[0] if matches else None

    def holds(self, name: str) -> bool:
        """Whether there still is a key of this name."""
        return any(each.name == name for each in self._keys())

    def _keys(self) -> Sequence[Key]:
        if self._path is not None and (stamp := _stamp(self._path)) != self._stamp:
            self._stamp = stamp
            try:
                self._of_file = read_keys(self._path)
            except KeysError as error:
                log.error("the keys stay as they were: %s", error)
        return (*self._of_file, *self._of_environment)


def key_ring(settings: ServerSettings) -> KeyRing:
    """The keys that these settings and the environment name.

    Raises KeysError when they cannot be used, and for an address that others reach without any key and without a word
    that this is meant.
    """
    ring = KeyRing(Path(settings.keys_file).expanduser() if settings.keys_file else None)
    if ring.needed or settings.allow_without_keys or is_loopback(settings.host):
        return ring
    raise KeysError(
        f"{settings.host or 'every address'} can be reached from other machines, and no API key is set: anybody could "
        "talk to this server. Make a key with `omni-rt keys add NAME --file FILE` and set server.keys_file=FILE, or "
        f"put a key into {API_KEY_ENV}; or say that this is meant: server.allow_without_keys=true"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to listen on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(salt: bytes, key: str) -> bytes:
    return hashlib.sha256(salt + key.encode("utf-8", "surrogatepass")).digest()


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    try:
        stat = path.stat() if path is not None else None
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino) if stat is not None else None


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Replace the file in one step, readable by its owner only. Raises KeysError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.writelines(f"{key.line()}\n" for key in keys)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise KeysError(f"cannot write the keys file {path}: {error.strerror}") from error
