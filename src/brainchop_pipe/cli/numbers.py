"""Types of options that are numbers within limits."""

from argparse import ArgumentTypeError


def whole_number_from_0(text: str) -> int:
    """Read a whole number, 0 or more."""
    return _at_least(0, text)


def whole_number_from_1(text: str) -> int:
    """Read a whole number, 1 or more."""
    return _at_least(1, text)


def number_above_0(text: str) -> float:
    """Read a number, more than 0."""
    value = float(text)
    if not value > 0:
        raise ArgumentTypeError(f"{text} is not more than 0")
    return value


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise ArgumentTypeError(f"{text} is not {least} or more")
    return value
