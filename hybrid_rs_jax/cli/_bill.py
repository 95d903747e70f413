"""What a run costs: hours, requests, money; and what each request costs when the filter is deployed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal

from cyclopts import Group, Parameter

from hybrid_rs_jax._text import counted, setting_text
from hybrid_rs_jax.cli.options import AtLeastZero, Count

__all__ = ["Bill", "BillOptions", "duration_text"]


@Parameter(name="*", group=Group("What it costs"))
@dataclass(frozen=True, kw_only=True)
class BillOptions:
    """The size of the planned run, and what a copy costs."""

    inputs: Count | None = None
    """inputs of the planned run"""
    price: AtLeastZero | None = None
    """money per noisy copy (of an endpoint: per request)"""


@dataclass(frozen=True)
class Bill:
    """A planned run.

    Args:
      inputs, samples: so many inputs, at most so many noisy copies of each.
      rate: copies per second; None: not known.
      price: money per copy; None: not known.
      requests: each copy is a request to an endpoint.
      deployed: copies of a request at run time; None: not known.
    """

    inputs: int
    samples: int
    rate: float | None = None
    price: float | None = None
    requests: bool = False
    deployed: int | None = None

    @property
    def copies(self) -> int:
        """All copies of the run."""
        return self.inputs * self.samples

    @property
    def seconds(self) -> float | None:
        """Time of the run."""
        return None if self.rate is None else self.copies / self.rate

    @property
    def money(self) -> float | None:
        """Money for the run."""
        return None if self.price is None else self._money(self.copies)

    def _money(self, copies: int) -> float:
        """As it is added up on paper: three times 0.1 is 0.3."""
        return float(copies * Decimal(repr(self.price or 0.0)))

    def record(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "inputs": self.inputs,
            "copies": self.copies,
            "seconds": self.seconds,
            "price": self.price,
            "money": self.money,
            "runtime_copies": self.deployed,
            "runtime_money": None if self.price is None or self.deployed is None else self._money(self.deployed),
        }

    def lines(self) -> Iterator[str]:
        """The bill in sentences."""
        draws = counted(self.samples, "draw")
        parts = [f"{counted(self.inputs, 'input')} x {draws}: {self._asked(self.copies)}"]
        if self.seconds is not None:
            parts.append(f"about {duration_text(self.seconds)}")
        if self.money is not None:
            parts.append(f"{_money_text(self.money)} at {setting_text(self.price or 0.0)} each")
        yield ", ".join(parts)
        if self.deployed is not None:
            each = f"up to {self._asked(self.deployed)} for each request"
            if self.rate is not None:
                each += f", about {duration_text(self.deployed / self.rate)}"
            if self.price is not None:
                each += f", {_money_text(self._money(self.deployed))}"
            yield f"at run time {each}"

    def _asked(self, number: int) -> str:
        """What the model is asked about."""
        return counted(number, "request" if self.requests else "copy")


def _money_text(amount: float) -> str:
    """An amount to the hundredth, rounded up."""
    paper = Decimal(repr(amount))
    return f"{paper.quantize(Decimal('0.01'), rounding=ROUND_CEILING, context=Context(prec=400)):f}"


def duration_text(seconds: float) -> str:
    """A time as one speaks of it.

    >>> duration_text(7200.0), duration_text(0.25)
    ('2.0 hours', '0.250 seconds')
    """
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} seconds" if seconds >= 1 else f"{seconds:,.3f} seconds"
