"""Any value such as JSON has it: what is logged may be anything, and must come out as JSON all the same."""

import math
from typing import Any, Final

_DEEPEST: Final = 8  # containers in each other
_MOST_VALUES: Final = 10_000
_INT_64: Final = 1 << 63  # beyond, parsers in other languages lose digits, or refuse the text


def plain_dict(value: dict[Any, Any]) -> dict[str, Any]:
    """*value* so that ``json.dumps`` takes it and every parser takes that; *value* itself is left as it is.

    Texts, numbers, ``None``, lists, tuples and dicts stay what they are; anything else, keys too, is shown by its
    `repr`. NaN, infinities and integers beyond 64 bits become texts, lone surrogates their escapes, and a container
    inside itself, or inside eight others, ``[…]`` or ``{…}``. What comes after 10,000 values is left out. Never raises.
    """
    return _Plain().mapping(value)


def plain_key(key: object) -> str:
    """*key* as `plain_dict` has it. Never raises."""
    try:
        return _text(key) if isinstance(key, str) else shown(key)
    except Exception:  # as of a value
        return shown(key)


def shown(value: object) -> str:
    """The `repr` of *value*, as a text that UTF-8 can hold; that of any object where its own fails. Never raises."""
    try:
        return _text(repr(value))
    except Exception:
        return _text(object.__repr__(value))


class _Plain:
    """Makes the values of one line such as JSON has."""

    def __init__(self) -> None:
        self._left = _MOST_VALUES
        self._around: list[object] = []

    def mapping(self, value: dict[Any, Any]) -> dict[str, Any]:
        self._around.append(value)
        try:
            # A copy, as another thread may change it. Of keys that look the same the last one stays.
            return {plain_key(key): self._value(member) for key, member in dict.copy(value).items() if self._left > 0}
        finally:
            self._around.pop()

    def _sequence(self, value: list[Any] | tuple[Any, ...]) -> list[Any]:
        self._around.append(value)
        try:
            return [self._value(member) for member in tuple(value) if self._left > 0]
        finally:
            self._around.pop()

    def _value(self, value: object) -> object:
        self._left -= 1
        try:
            return self._plain(value)
        except Exception:  # a proxy may pretend to be of a class that it is not of, or raise when it is asked
            return shown(value)

    def _plain(self, value: object) -> object:
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return _text(value)
        # By the base's methods: those of a class derived from it may do anything.
        if isinstance(value, int):
            number = int.__int__(value)
            return number if -_INT_64 <= number < _INT_64 else _digits(number)
        if isinstance(value, float):
            return _finite(float.__float__(value))
        if isinstance(value, dict):
            return self.mapping(value) if self._enters(value) else "{…}"
        if isinstance(value, (list, tuple)):
            return self._sequence(value) if self._enters(value) else "[…]"
        return shown(value)

    def _enters(self, value: object) -> bool:
        return self._left > 0 and len(self._around) <= _DEEPEST and all(value is not around for around in self._around)


def _text(value: str) -> str:
    """*value* as a plain text that UTF-8 can hold: a lone surrogate becomes its escape."""
    if type(value) is str and value.isascii():
        return value  # most are
    return str.encode(value, "utf-8", "backslashreplace").decode()


def _digits(number: int) -> str:
    try:
        return str(number)
    except ValueError:  # more digits than Python is willing to work out
        return hex(number)


def _finite(number: float) -> float | str:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
