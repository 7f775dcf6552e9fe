"""How a decision's numbers are said: points for shares of items, nats for losses."""

from __future__ import annotations

from pipeline.promotion.policy import Primary


def amount(value: float, *, primary: Primary) -> str:
    """A size without a sign: `1.2 points`, `0.0120 nats`."""
    return f"{abs(value) * 100:.1f} points" if primary == "exact_match" else f"{abs(value):.4f} nats"


def gain(difference: float, *, primary: Primary) -> str:
    """A difference where higher is better: `1.2 points better`."""
    if difference == 0:
        return "exactly equal"
    return f"{amount(difference, primary=primary)} {'better' if difference > 0 else 'worse'}"


def signed(difference: float, *, primary: Primary) -> str:
    """A difference for a table: `+1.2 points`."""
    return f"{difference * 100:+.1f} points" if primary == "exact_match" else f"{difference:+.4f} nats"


def mean(value: float, *, primary: Primary) -> str:
    """A mean score: `71.3 %`, `1.2345 nats`."""
    return f"{value * 100:.1f} %" if primary == "exact_match" else f"{value:.4f} nats"


def probability(value: float) -> str:
    """A p-value: `0.0312`, `below 0.0001`."""
    return f"{value:.4f}" if value >= 0.0001 else "below 0.0001"


def label(name: str) -> str:
    """A name from a test set on one line, at most 40 characters."""
    return " ".join(name.split())[:40]


def sentence(text: str) -> str:
    """The same with a capital first letter and a full stop; nothing stays nothing."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""
