"""A gateway may have as many connections open as the system allows it, not as many as a shell's custom is."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from server import descriptors


@pytest.fixture
def hard() -> Iterator[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (600, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_soft_limit_is_raised_to_what_the_system_allows(hard: int) -> None:
    said = descriptors.raise_limit()

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (said, hard)
    assert said == (65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536))
    assert descriptors.raise_limit() == said
