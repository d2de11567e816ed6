"""A cache bounded in bytes that drops what has not been used for longest."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class ByteCache(Generic[_Key, _Value]):
    """Values by key, of `max_bytes` together at the most. A value larger than that is never kept.

    Args:
      size: bytes of a value.
    """

    def __init__(self, max_bytes: int, *, size: Callable[[_Value], int]) -> None:
        self._max_bytes, self._size = max_bytes, size
        self._values = OrderedDict[_Key, _Value]()  # the one used longest ago comes first
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: _Key) -> _Value | None:
        """The value of a key, which counts as used now; None if it is not kept."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: _Key, value: _Value) -> None:
        """Keeps a value, in place of the key's older one, and drops others to make room."""
        self.discard(key)
        if self._size(value) > self._max_bytes:
            return
        self._values[key] = value
        self.num_bytes += self._size(value)
        while self.num_bytes > self._max_bytes:
            _, dropped = self._values.popitem(last=False)
            self.num_bytes -= self._size(dropped)

    def discard(self, key: _Key) -> None:
        """Forgets a key, if it is there."""
        if key in self._values:
            self.num_bytes -= self._size(self._values.pop(key))
