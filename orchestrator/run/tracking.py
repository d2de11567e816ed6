"""The Redis of a run: the one that the configuration names, or an embedded one; and the index in it."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

import structlog

from orchestrator.cluster.local_ray import address_to_join
from orchestrator.cluster.redis_server import LOOPBACK, RedisServer
from orchestrator.run.timings import Timings
from upcycle.config.run import RunConfig
from upcycle.errors import UserError
from upcycle.runs.redis_password import VARIABLE, redis_password
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.tracker import Tracker, TrackerRefused, TrackerUnavailable

if TYPE_CHECKING:  # Ray is imported late; see `orchestrator.cluster.local_ray`
    from orchestrator.cluster.ray_cluster import Cluster

_log = structlog.get_logger(__name__)


def check_redis(config: RunConfig) -> None:
    """Raises: UserError if the Redis that is asked for does not answer. Outages that come later are survived."""
    url = config.cluster.redis_url
    if url is None:
        return
    tracker = Tracker(url, config.name, password=redis_password(config.cluster))
    try:
        tracker.ping()
    except TrackerRefused as error:
        remedy = f"set {VARIABLE}, or name a file with the password in cluster.redis_password_file"
        raise UserError("cluster.redis_url", url, f"Redis does not let us in ({error.reason})", remedy) from error
    except TrackerUnavailable as error:
        raise UserError("cluster.redis_url", url, "Redis cannot be reached", "start it, or leave this out") from error
    finally:
        tracker.close()


def start_tracker(folder: RunFolder, cluster: "Cluster", resources: ExitStack, timings: Timings) -> Tracker:
    """The run's tracker, on the Redis that it names or an embedded one; its index is made to agree with the files.

    Processes of a cluster may be on other nodes: there the embedded one listens at the address that they know. All that
    `cluster` starts from now on are told the password.
    """
    config = folder.config
    url, password = config.cluster.redis_url, redis_password(config.cluster)
    if url is None:
        host = LOOPBACK if address_to_join(config.cluster) is None else cluster.node_address
        with timings.step("start Redis"):
            server = resources.enter_context(RedisServer(folder.path / "redis", host))
        url, password = server.url, server.password
    cluster.redis_password = password
    tracker = Tracker(url, config.name, password=password)
    resources.callback(tracker.close)
    rebuild(tracker, folder)
    folder.announce_endpoint("tracker", 0, url)
    return tracker


def rebuild(tracker: Tracker, folder: RunFolder) -> None:
    """Makes the index say what the folder says, if Redis answers."""
    try:
        tracker.rebuild(folder)
    except TrackerUnavailable as error:
        _log.warning("tracker_unavailable", error=str(error))
