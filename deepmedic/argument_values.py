"""Values of command-line options: text to numbers and paths, with a refusal that says what is allowed."""

from __future__ import annotations

from pathlib import Path

from deepmedic.errors import CommandLineError

_SHARES_TOLERANCE = 1e-6


def whole_number(option: str, value: str, lowest: int) -> int:
    """Return a whole number from `lowest` to the largest of 64 bits, or raise CommandLineError."""
    if not value.isdecimal() or len(value) > 19 or not lowest <= int(value) < 2**63:
        raise CommandLineError(f"{option} {value}: allowed are whole numbers from {lowest} to {2**63 - 1}.")
    return int(value)


def share(option: str, value: str) -> float:
    """Return a finite number above 0, or raise CommandLineError."""
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise CommandLineError(f"{option} {value}: allowed are numbers above 0, for instance 0.9 0.07 0.03.")
    return number


def split_request(option: str, values: list[str]) -> tuple[float, ...] | Path:
    """Return two or three shares that sum to 1, or the path of a stored split, or raise CommandLineError."""
    if len(values) == 1 and not values[0].replace(".", "", 1).isdecimal():
        return Path(values[0])
    shares = tuple(share(option, value) for value in values)
    if not 2 <= len(shares) <= 3 or abs(sum(shares) - 1) > _SHARES_TOLERANCE:
        raise CommandLineError(
            f"{option} {' '.join(values)}: give the shares of training, validation and, if some cases are to be held "
            "out, test; they sum to 1, for instance 0.8 0.1 0.1. Or name a stored split."
        )
    return shares
