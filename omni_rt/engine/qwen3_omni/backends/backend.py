"""The seam between the decoders and what attends: both machines' decoders write a pass's keys and values to the pool,
then one of these reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from omni_rt.engine.qwen3_omni.attention import Attend, Plan
    from omni_rt.engine.qwen3_omni.kv_cache import KVPool
    from omni_rt.engine.qwen3_omni.passes import Bucket, Pass


class Backend(Protocol):
    """Grouped-query attention, causal within each sequence, scaled by head_dim ** -0.5. Head h reads key head
    h // (heads / kv_heads). Without state: what a pass takes is made once for all its layers."""

    @property
    def name(self) -> str:
        """As in the setting `qwen.attention`."""

    @property
    def page(self) -> int:
        """Tokens of a page that a pool shall have for it."""

    @property
    def tables(self) -> bool:
        """Whether `captured` needs the `Tables` of a pass."""

    def eager(self, plan: Plan) -> Attend:
        """For a pass that is run once."""

    def captured(self, pool: KVPool, bucket: Bucket, given: Pass) -> Attend:
        """For a step that becomes a CUDA graph: whatever the lengths, the same work on the same memory, and the host
        never waits. Rows that are none give zeros."""
