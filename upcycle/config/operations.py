"""How a run is evaluated, and where it runs."""

from typing import Annotated

from pydantic import AfterValidator, Field

from upcycle.config.section import Fraction, PositiveInt, Section
from upcycle.url_secrets import secret_in


def _check_redis_url(url: str | None) -> str | None:
    """Returns `url`. Raises ValueError if it holds a secret, which would stand in the files that a run leaves."""
    if url is not None and (found := secret_in(url)):
        raise ValueError(
            f"holds {found}, which would be written to the run's files and published with its teachers; leave it out, "
            "and set UPCYCLE_REDIS_PASSWORD or name a file with it in cluster.redis_password_file"
        )
    return url


class EvaluationConfig(Section):
    """The evaluator: whole episodes, raw returns, pinned weights."""

    episodes: PositiveInt = 10
    """Episodes of each evaluation while training."""
    final_episodes: PositiveInt = 30
    """Episodes of the final evaluation, and of the teacher's."""
    finalists: PositiveInt = 1
    """How many of the best evaluated versions play as many episodes at the end, to settle which one is given back; 1
    takes the best evaluation's word for it."""
    lanes: PositiveInt = 5
    """Environments played side by side."""
    epsilon: Fraction = 0.001
    """Exploration while evaluating (ALE protocol)."""
    period_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Least time between the starts of two evaluations; each takes the newest policy version."""
    period_frames: Annotated[int, Field(ge=0)] = 0
    """Least environment frames between the policy versions of two evaluations after the offline phase; 1,000,000 in the
    paper's code, 0 leaves it to the time alone."""


class ClusterConfig(Section):
    """Where the processes run."""

    address: str | None = None
    """Ray address; none starts a local Ray, or joins the one that submitted this job."""
    redis_url: Annotated[str | None, AfterValidator(_check_redis_url)] = None
    """Redis or Valkey URL, without a password; none starts an embedded server, whose password only the run's processes
    get: on loopback, or on the driver's node of a cluster."""
    redis_password_file: str | None = None
    """File with the password for `redis_url`; UPCYCLE_REDIS_PASSWORD comes before it."""
    dashboard: bool = False
    """Start Ray's dashboard with a local Ray; a cluster has its own."""
    disk_warning_bytes: Annotated[int, Field(ge=0)] = 4 << 30
    """Warn in the panel, status, log and metrics when the disk of the run folder has fewer free bytes than this."""
    disk_stop_bytes: Annotated[int, Field(ge=0)] = 512 << 20
    """Stop the run with a checkpoint when the disk has fewer free bytes than this. 0 continues until a write fails."""
    max_restarts: Annotated[int, Field(ge=0)] = 5
    """Restarts of one process before the run gives up. A death stops counting after `restart_window_seconds`."""
    restart_window_seconds: Annotated[float, Field(gt=0)] = 300.0
    """How long a restarted process must keep answering before its death is forgotten."""
    heartbeat_timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    """A process that has not been heard of for so long counts as dead."""
