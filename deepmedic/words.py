"""Words for messages: numbers of things ("1 case", "2 cases"), and channels and classes without names of their own."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, which gets an s, or is replaced by `plural`, unless the number is 1."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def classes_by_number(classes: int) -> tuple[str, ...]:
    """Return what classes are called that have no names: the background, then "class 1", "class 2", ..."""
    return ("background", *(f"class {number}" for number in range(1, classes)))


def channels_by_number(channels: int) -> tuple[str, ...]:
    """Return what channels are called that have no names: "channel 1", "channel 2", ..."""
    return tuple(f"channel {number}" for number in range(1, channels + 1))
