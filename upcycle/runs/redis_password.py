"""Where the password of a Redis of the user's own comes from: never from a value of the configuration."""

import os
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from upcycle.config.run import ClusterConfig
from upcycle.errors import UserError

VARIABLE: Final = "UPCYCLE_REDIS_PASSWORD"
_FIELD: Final = "cluster.redis_password_file"


def redis_password(cluster: ClusterConfig) -> SecretStr | None:
    """The password of the server at `cluster.redis_url`: what the environment says, else what the named file holds.

    Returns: None if there is neither, or no such server. An end of line at the end of the file is no part of it.
    Raises: UserError if the file cannot be read or is empty.
    """
    if cluster.redis_url is None:
        return None
    if given := os.environ.get(VARIABLE):
        return SecretStr(given)
    if cluster.redis_password_file is None:
        return None
    path = Path(cluster.redis_password_file).expanduser()
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read ({error.strerror if isinstance(error, OSError) else 'it is no text'})"
        raise UserError(_FIELD, str(path), problem, f"correct its name, or set {VARIABLE}") from None
    if not text:
        raise UserError(_FIELD, str(path), "is empty", f"put the password into it, or set {VARIABLE}")
    return SecretStr(text)
