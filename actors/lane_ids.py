"""Whether the lanes that EnvPool names are those that are due."""

from importlib.metadata import version
from typing import cast

import numpy as np

from upcycle.errors import UserError
from upcycle.experience.chunks import Array


def check_lane_ids(lane: Array, awaited: Array) -> None:
    """Refuses rows that no lane owes.

    EnvPool wheels that were built against another NumPy hand out env_id 0 for every row, silently (envpool#312).

    Args:
      lane: int [M], the ids received.
      awaited: bool [lanes], which lanes owe a row.
    Raises: UserError if an id is there twice or its lane owes none.
    """
    ids = cast(list[int], lane.tolist())
    if len(set(ids)) != len(ids) or not bool(awaited[lane].all()):
        raise UserError(
            "envpool",
            version("envpool"),
            f"hands out the lanes {ids} although others are due: the wheel does not fit NumPy {np.__version__}",
            "install the versions of requirements/lock.txt",
        )
