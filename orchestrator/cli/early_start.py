"""What begins before a run's command has imported anything heavy, so that both go on side by side."""

import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

from orchestrator.cluster.fork_server import fork_server
from orchestrator.cluster.local_ray import address_to_join, private_folder
from upcycle.config.run import RunConfig

VERIFIED_VERSIONS: Final = frozenset({"2.60.0"})
"""Versions of Ray that are known to start lean (`lean_ray`); any other is started as it starts itself."""


@contextmanager
def local_place(config: RunConfig) -> Generator[Path | None]:
    """The private folder of the local Ray to be, in which a fork server is importing; None where a Ray is joined.

    There is no fork server beside a Ray that this version does not know how to start lean, or that is to have a
    dashboard, which shows what the daemons tell that a lean Ray lacks.
    """
    with ExitStack() as resources:
        if address_to_join(config.cluster) is not None:
            yield None
            return
        folder = resources.enter_context(private_folder())
        if version("ray") in VERIFIED_VERSIONS and sys.platform == "linux" and not config.cluster.dashboard:
            resources.enter_context(fork_server(folder, config.env.task))
        yield folder
