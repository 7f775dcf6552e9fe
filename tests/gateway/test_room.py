"""Whether an engine fits beside others."""

from __future__ import annotations

import pytest

from server.engine_spec import DEFAULT_KV_BYTES
from server.gateway import room


@pytest.mark.parametrize(
    ("free", "warm", "mode"),
    [
        (None, 0, "beside"),
        (3_000, 0, "beside"),
        (2_999, 1_000, "beside-after-stopping-previous"),
        (2_999, 0, "no-room"),
        (1_000, 1_999, "no-room"),
    ],
)
def test_the_plan_follows_from_the_memory_that_is_free(free: int | None, warm: int, mode: str) -> None:
    plan = room.plan(device="cpu", needed=2_000, free=free, warm=warm, reserve=1_000)

    assert plan.mode == mode
    assert plan.because


def test_half_precision_on_a_cpu_is_counted_as_the_float32_that_it_becomes() -> None:
    as_saved = room.estimated_weight_bytes(1_000, "bfloat16", "cuda", "auto")
    on_cpu = room.estimated_weight_bytes(1_000, "bfloat16", "cpu", "auto")

    assert (as_saved, on_cpu) == (1_000, 2_000)


def test_on_the_gpu_all_rows_of_keys_and_values_are_counted_as_the_settings_have_them() -> None:
    default, set_by_hand = room.overhead_bytes("cuda", 0), room.overhead_bytes("cuda", 500_000_000)

    assert default - set_by_hand == DEFAULT_KV_BYTES["cuda"] - 500_000_000
    assert room.overhead_bytes("cpu", 500_000_000) == room.overhead_bytes("cpu", 0)


def test_free_memory_of_the_cpu_is_known() -> None:
    assert (room.free_bytes("cpu") or 0) > 0
