"""What a soak's numbers say. Pure: samples and counts in, sentences out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Allocators round up and pools fill: growth below these is no leak. A true leak passes them in half an hour.
RSS_SLACK_BYTES = 64_000_000
MAX_SLOPE_BYTES_PER_H = 60_000_000
THREAD_SLACK = 2
FILE_SLACK = 4
# Shorter than this a slope says nothing but that pools fill.
SLOPE_FROM_S = 600.0
_FAULTS = ("stuck", "refused connections", "streams without an end")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The engine's process at a moment of the monotonic clock, in seconds."""

    at_s: float
    rss_bytes: int
    num_threads: int
    num_files: int


def findings(
    samples: Sequence[Sample], last: Sample | None, counts: Mapping[str, int], *, left: Mapping[str, int]
) -> list[str]:
    """What is wrong, as sentences.

    Args:
        samples: Taken under load, in order.
        last: Taken when nobody asks any more; None when the engine has died.
        counts: What came of the requests.
        left: Requests that the engine still holds, by state.
    """
    if last is None or len(samples) < 4:
        return ["the engine died under load"]
    wrong = [f"{number} x {what}" for what, number in counts.items() if what in _FAULTS or "unexpected" in what]
    wrong += [f"{number} requests are left in {state}" for state, number in left.items() if number]
    return wrong + _leaks(samples, last)


def _leaks(samples: Sequence[Sample], last: Sample) -> list[str]:
    warm = samples[len(samples) // 4 :]
    wrong = []
    grown = last.rss_bytes - statistics.median(sample.rss_bytes for sample in warm[: len(warm) // 3 or 1])
    if grown > RSS_SLACK_BYTES:
        wrong.append(f"memory grew by {grown / 1e6:.0f} MB after the first quarter")
    if warm[-1].at_s - warm[0].at_s >= SLOPE_FROM_S and (slope := _slope(warm)) > MAX_SLOPE_BYTES_PER_H:
        wrong.append(f"memory grows by {slope / 1e6:.0f} MB an hour")
    threads = min(sample.num_threads for sample in warm)
    if last.num_threads > threads + THREAD_SLACK:
        wrong.append(f"{last.num_threads} threads at rest, {threads} were enough under load")
    files = min(sample.num_files for sample in samples)
    if last.num_files > files + FILE_SLACK:
        wrong.append(f"{last.num_files} open files at rest, {files} were enough under load")
    return wrong


def _slope(samples: Sequence[Sample]) -> float:
    """Growth of resident memory in bytes an hour, by least squares."""
    fit = statistics.linear_regression([s.at_s for s in samples], [float(s.rss_bytes) for s in samples])
    return 3600 * fit.slope
