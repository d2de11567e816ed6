"""Errors that a user can act on.

`UserError` ends a command with exit code 2 and one line; anything else that escapes is a defect and ends it with 1.
"""

from upcycle.url_secrets import masked, masked_value


class UpcycleError(Exception):
    """Base of every error that Upcycle raises on purpose."""


class UserError(UpcycleError, ValueError):
    """Input from outside is wrong. The message is one line: field, value, what to do; no password of a URL in it.

    Args:
      field: what the user wrote or pointed at, in their words (`learner.batch_size`, `--address`, a path).
      value: the offending value, as given.
      problem: what is wrong with it.
      remedy: what to do instead.
    """

    def __init__(self, field: str, value: object, problem: str, remedy: str) -> None:
        self.field, self.problem, self.remedy = masked(field), masked(problem), masked(remedy)
        self.value = masked_value(value) if isinstance(value, str) else value
        super().__init__(masked(f"{self.field} = {self.value!r}: {self.problem}; {self.remedy}"))

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, object, str, str]]:
        # Ray moves exceptions between processes; the default reduction would call __init__ with the message alone.
        return (type(self), (self.field, self.value, self.problem, self.remedy))


class CorruptDataError(UpcycleError):
    """Bytes from a file or a peer fail verification (magic, checksum, dtype, shape)."""
