"""The private folder of a local Ray. It comes before `import ray`: Ray reads its security mode once, there."""

import os
import secrets
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from upcycle.config import ClusterConfig

_MODE: Final = "RAY_AUTH_MODE"
_TOKEN_PATH: Final = "RAY_AUTH_TOKEN_PATH"
_NICENESS: Final = "RAY_worker_niceness"


def address_to_join(cluster: ClusterConfig) -> str | None:
    """The Ray to join: the one that the configuration names or that runs this job; None if a local one is to start."""
    return cluster.address or os.environ.get("RAY_ADDRESS")


@contextmanager
def private_folder() -> Generator[Path]:
    """A folder for a local Ray's sockets and logs, with a token in it that Ray will ask for; removed at the end.

    Ray listens on all interfaces whatever it is told, so the token is what keeps the network out. Its workers run as
    urgently as their owner, not at Ray's own nice level of 15, at which they would get next to nothing beside anything
    else on the machine. A user's RAY_AUTH_MODE and RAY_worker_niceness are respected. The folder's path is short:
    sockets live below it, and their paths end at 107 bytes.
    """
    own = {name: os.environ.get(name) for name in (_MODE, _TOKEN_PATH, _NICENESS)}
    with tempfile.TemporaryDirectory(prefix="up-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if own[_MODE] is None:
            token = folder / "token"
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32), encoding="ascii")
            os.environ |= {_MODE: "token", _TOKEN_PATH: str(token)}
        os.environ.setdefault(_NICENESS, "0")
        try:
            yield folder
        finally:
            for variable, value in own.items():
                os.environ.pop(variable, None)
                if value is not None:
                    os.environ[variable] = value
