"""`--weights` of the tools: in which numbers a model's weights are held."""

from __future__ import annotations

import argparse
import gc
from dataclasses import dataclass

import torch

from omni_rt.engine.qwen3_omni.eight_bit import EVERYTHING, NOTHING, PARTS, EightBit, hold_experts
from omni_rt.engine.qwen3_omni.model import Omni

HELP = f"bfloat16, fp8, or fp8:PART,PART with some of {', '.join(PARTS)} in 8 bit"


@dataclass(frozen=True, slots=True)
class Weights:
    """`suffix` is what the names of rows end in."""

    eight_bit: EightBit
    suffix: str

    @classmethod
    def parse(cls, text: str) -> Weights:
        """Raises argparse.ArgumentTypeError."""
        kind, colon, parts = text.partition(":")
        if text == "bfloat16":
            return cls(NOTHING, "")
        if kind != "fp8":
            raise argparse.ArgumentTypeError(f"{text!r} is none of: {HELP}")
        if not colon:
            return cls(EVERYTHING, "_fp8")
        try:
            return cls(EightBit.of(parts.split(",")), "_".join(["_fp8", *parts.split(",")]))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    def holds(self, other: Weights) -> bool:
        """Whether all that `other` has in 8 bit is so here; there is no way back."""
        return all(getattr(self.eight_bit, part) >= getattr(other.eight_bit, part) for part in PARTS)


def settle(omni: Omni, weights: Weights) -> None:
    """Experts in 8 bit where they are to be, and what nobody needs any more given back to the device."""
    omni.thinker.model.audio_tower.captured.clear()  # graphs of the machine before
    if weights.eight_bit.experts:
        hold_experts(omni)
    gc.collect()
    if omni.device.type == "cuda":
        torch.cuda.empty_cache()
