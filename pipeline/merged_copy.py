"""The folder that is published in place of a LoRA adapter: the adapter merged into its base, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.scratch import scratch_dir


@contextmanager
def merged_copy(adapter: Path, base: Path, *, name: str) -> Iterator[Path]:
    """A copy that goes at the end, as large as the base; made on the CPU, one shard of the base in memory at a time.

    Args:
        name: Of the folder, which may tell the step.

    Raises:
        NotACheckpointError: The adapter is not plain LoRA, or does not fit the base.
        CorruptFileError: A merged weight is not finite.
    """
    from pipeline.merging import merge_adapter  # torch: two seconds, needed here only

    with scratch_dir() as room:
        merge_adapter(adapter, base, room / name)
        yield room / name
