"""Checks of what callers pass: a number in its range, or an error that names the argument.

Called by most rooms above the engine that the program calls; calls nothing of iocpx.
"""

import inspect
import math
import operator
import sys


def integer(name: str, value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def integer_between(name: str, value: object, low: int, high: int) -> int:
    number = integer(name, value)
    if not low <= number <= high:
        raise ValueError(f"{name} must be {low} to {high}, got {number}")
    return number


def byte_count(name: str, value: object) -> int:
    """Also of a float, as asyncio's marks may be: the whole bytes in it."""
    if isinstance(value, float):
        number = int(min(value, 2.0**63)) if value >= 0 else -1  # no infinity, no NaN
    else:
        number = integer(name, value)
    if number < 0:
        raise ValueError(f"{name} must be 0 or more bytes, got {value!r}")
    return number


def write_marks(high: object, low: object, default: int) -> tuple[int, int]:
    """(high, low) of set_write_buffer_limits(), as asyncio completes them."""
    if low is not None:
        low = byte_count("low", low)
    if high is None:
        high = default if low is None else 4 * low
    high = byte_count("high", high)
    if low is None:
        low = high // 4
    if not high >= low:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r})")
    return min(high, sys.maxsize), min(low, sys.maxsize)


def seconds(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high} seconds, got {value!r}")
    return value


def milliseconds(name: str, value: object, low: float, high: float) -> int:
    return math.ceil(seconds(name, value, low, high) * 1000)


def limit(name: str, value: object, high: int) -> int:
    """0 stands for no limit."""
    return 0 if value is None else integer_between(name, value, 1, high)


def refuse_async(name: str, function: object) -> None:
    """What is called without being awaited would do nothing, and say nothing of it."""
    try:
        is_async = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
    except Exception:
        return  # no function, then: an object that raises when it is asked
    if is_async:
        raise TypeError(f"{name} must be callable without await, no async def, got {function!r}")
