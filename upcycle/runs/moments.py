"""When something happened first, or last, in one process; Unix seconds, which the processes of a machine share."""

import time


class Moments:
    """A few named moments; may be written and read from several threads."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}

    def first(self, name: str) -> None:
        """It happens now, if it has not happened before."""
        if name not in self._at:
            self._at[name] = time.time()

    def last(self, name: str) -> None:
        """It happens now, perhaps again."""
        self._at[name] = time.time()

    def to_json(self) -> dict[str, float]:
        """Unix seconds by name, in the order of their first mention."""
        return dict(self._at)
