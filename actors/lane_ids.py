"""Checks the lane ids that EnvPool returns."""

from importlib.metadata import version
from typing import cast

import numpy as np

from upcycle.errors import UserError
from upcycle.experience.chunks import Array


def check_lane_ids(lane: Array, awaited: Array) -> None:
    """Refuses rows of lanes that have no step pending.

    EnvPool wheels that were built against another NumPy hand out env_id 0 for every row, silently (envpool#312).

    Args:
      lane: int [M], the ids received.
      awaited: bool [lanes], lanes with a step pending.
    Raises: UserError if an id occurs twice or its lane has no step pending.
    """
    ids = cast(list[int], lane.tolist())
    if len(set(ids)) != len(ids) or not bool(awaited[lane].all()):
        raise UserError(
            "envpool",
            version("envpool"),
            f"hands out the lanes {ids} although others are due: the wheel does not fit NumPy {np.__version__}",
            "install the versions of requirements/lock.txt",
        )
