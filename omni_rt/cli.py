"""The `omni-rt` command. What a command needs is imported when it is chosen, so that help and errors come at once."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omni_rt.config import Settings


@dataclass(frozen=True, slots=True)
class _Command:
    """`add` puts the arguments on a parser and may import for that; `run` returns the exit status."""

    help: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 2 the user asked for something impossible."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="omni-rt", description="A self-hosted voice-and-video assistant.")
    parser.add_argument("--version", action="version", version=f"omni-rt {version('omni-rt')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        subparser = commands.add_parser(name, help=command.help, description=command.help)
        subparser.set_defaults(run=command.run)
        if arguments[:1] == [name]:
            command.add(subparser)
    chosen = parser.parse_args(arguments)
    try:
        status: int = chosen.run(chosen)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader went away (`omni-rt config | head`); keep Python from complaining about it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _say(error: Exception, status: int) -> int:
    print(f"omni-rt: {error}", file=sys.stderr)
    return status


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings, like those in configs/")
    parser.add_argument(
        *("--set", "-s"),
        dest="overrides",
        action="extend",
        nargs="+",
        default=[],
        metavar="section.key=value",
        help="override settings; `omni-rt config` lists them",
    )


def _add_serving(parser: argparse.ArgumentParser) -> None:
    _add_settings(parser)
    parser.add_argument("--engine", metavar="KIND", help="which engine answers: local or qwen3_omni")
    parser.add_argument(
        "--weights", metavar="SOURCE", help="of qwen3_omni: a checkpoint folder, or random:30b-a3b or random:tiny"
    )
    parser.add_argument("--small", action="store_true", help="use the small chat model (0.5B: less memory, less wit)")


def _settings(arguments: argparse.Namespace) -> Settings:
    """The settings that the command line asks for. Raises ConfigError."""
    from omni_rt.config import load
    from omni_rt.models.manifest import CHAT_SMALL

    options = {
        "server.host": getattr(arguments, "host", None),
        "server.port": getattr(arguments, "port", None),
        "engine.kind": getattr(arguments, "engine", None),
        "qwen.weights": getattr(arguments, "weights", None),
        "local.chat_model": CHAT_SMALL if getattr(arguments, "small", False) else None,
    }
    flags = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    return load(arguments.config, [*arguments.overrides, *flags])


def _add_serve(parser: argparse.ArgumentParser) -> None:
    _add_serving(parser)
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="TCP port to listen on; 0: any that is free")


def _serve(arguments: argparse.Namespace) -> int:
    # Read when numpy is loaded. A product made with several threads keeps the cores of all of them busy for some 50 ms
    # more, waiting for another.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from omni_rt.config import ConfigError, cache_dir
    from omni_rt.models.fetch import FetchError, fetch
    from omni_rt.models.manifest import UnknownModel, find, is_gguf_path, needed
    from omni_rt.models.store import ModelMissing, ModelStore
    from omni_rt.server.keys import KeysError, key_ring

    store = ModelStore(cache_dir())
    try:
        settings = _settings(arguments)
        key_ring(settings.server)
        names = needed(settings)
        if settings.uses_local and is_gguf_path(settings.local.chat_model):
            store.chat_model(settings.local.chat_model)
        fetch(store, map(find, names), settings.models, sys.stderr)
    except (ConfigError, KeysError, UnknownModel, ModelMissing) as error:
        return _say(error, 2)
    except FetchError as error:
        return _say(error, 1)

    from omni_rt.server.app import serve

    return serve(settings)


def _add_talk(parser: argparse.ArgumentParser) -> None:
    from omni_rt.client import talk

    talk.add_arguments(parser)


def _talk(arguments: argparse.Namespace) -> int:
    from omni_rt.client import talk

    return talk.run(arguments)


def _add_bench(parser: argparse.ArgumentParser) -> None:
    from omni_rt.client import bench

    kinds = parser.add_subparsers(metavar="KIND", required=True)
    text = "play recorded human utterances to a running server and time its answers"
    bench.add_arguments(kinds.add_parser("voice", help=text, description=text))


def _bench(arguments: argparse.Namespace) -> int:
    from omni_rt.client import bench

    return bench.run(arguments)


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    _add_serving(parser)
    parser.add_argument("--fetch", action="store_true", help="fetch the model files that are missing")
    parser.add_argument("--all", action="store_true", help="look after all models, not only those these settings need")
    parser.add_argument("--verify", action="store_true", help="read every model file and compare its SHA-256")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def _doctor(arguments: argparse.Namespace) -> int:
    from omni_rt.config import ConfigError, cache_dir
    from omni_rt.doctor import as_json, as_text, examine, healthy
    from omni_rt.models.fetch import FetchError, fetch
    from omni_rt.models.manifest import MANIFEST, UnknownModel, find, needed
    from omni_rt.models.store import ModelStore

    store = ModelStore(cache_dir())
    try:
        settings = _settings(arguments)
        names = dict.fromkeys((*needed(settings), *(MANIFEST if arguments.all else ())))
        for name in names if arguments.verify else ():
            store.check(find(name), rehash=True)
        if arguments.fetch:
            fetch(store, map(find, names), settings.models, sys.stderr)
    except (ConfigError, UnknownModel) as error:
        return _say(error, 2)
    except FetchError as error:
        _say(error, 1)
    findings = examine(settings, store, tuple(names))
    print(as_json(findings) if arguments.json else as_text(findings))
    return 0 if healthy(findings) else 1


def _config(arguments: argparse.Namespace) -> int:
    from omni_rt.config import ConfigError, describe

    try:
        settings = _settings(arguments)
    except ConfigError as error:
        return _say(error, 2)
    section = ""
    for key, default, allowed, text in describe():
        owner, _, name = key.partition(".")
        if owner != section:
            print(f"\n[{owner}]" if section else f"[{owner}]")
            section = owner
        values = getattr(settings, owner)
        value = getattr(values, name)
        if value and not type(values).model_fields[name].repr:
            print(f"# {text}; {allowed}\n# {name} is set; it is not shown, as it may hold secrets")
            continue
        was = "" if value == default else f"; default: {json.dumps(default)}"
        print(f"# {text}; {allowed}{was}\n{name} = {json.dumps(value)}")
    return 0


def _add_keys(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    for action, text in (
        ("add", "make a key and print it, once"),
        ("list", "print the names of the keys"),
        ("remove", "take a key away, from a running server too"),
    ):
        kind = kinds.add_parser(action, help=text, description=text)
        _add_settings(kind)
        if action != "list":
            kind.add_argument("name", metavar="NAME", help="whose key it is")
        kind.add_argument("--file", type=Path, metavar="FILE", help="the keys file (default: server.keys_file)")


def _keys(arguments: argparse.Namespace) -> int:
    from omni_rt.config import ConfigError
    from omni_rt.server.keys import KeysError, add_key, read_keys, remove_key

    try:
        path = arguments.file or Path(_settings(arguments).server.keys_file)
        if path == Path():
            raise ConfigError("which keys file? Name it with --file, or set server.keys_file")
        path = path.expanduser()
        if arguments.action == "add":
            print(add_key(path, arguments.name))
            print(f"This is shown once; {path} keeps a hash of it only.", file=sys.stderr)
        elif arguments.action == "remove":
            remove_key(path, arguments.name)
        else:
            for key in read_keys(path):
                print(key.name)
    except ConfigError as error:
        return _say(error, 2)
    except KeysError as error:
        return _say(error, 1)
    return 0


_COMMANDS = {
    "serve": _Command("fetch what is missing and serve the page and the API", _add_serve, _serve),
    "talk": _Command("talk to a server with a recording as the microphone", _add_talk, _talk),
    "bench": _Command("measure a running server", _add_bench, _bench),
    "doctor": _Command("say what is installed, what is missing and what to do about it", _add_doctor, _doctor),
    "keys": _Command("make, list and remove the API keys that a server takes", _add_keys, _keys),
    "config": _Command("print every setting with its value and what it may be, as TOML", _add_settings, _config),
}

if __name__ == "__main__":
    sys.exit(main())
