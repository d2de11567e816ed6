"""The tracker: an index of runs, weights, checkpoints, scores and heartbeats in Redis; the one module with redis in it.

Files are the truth, and everything in here can be rebuilt from them (`Tracker.rebuild`). So an outage costs nothing but
news: a call fails within half a second, the calls of the next seconds fail at once, and callers count and go on.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast
from urllib.parse import unquote

import redis
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.retry import Retry

from upcycle.errors import UpcycleError, UserError
from upcycle.runs.run_folder import Record, RunFolder
from upcycle.runs.snapshots import SnapshotFolder
from upcycle.url_secrets import secret_in

T = TypeVar("T")

_PREFIX: Final = "upcycle"
_TIMEOUT_SECONDS: Final = 0.25  # for the connection and for the answer: half a second together
_COOL_DOWN_SECONDS: Final = 5.0


class TrackerUnavailable(UpcycleError):
    """Redis does not answer. Count it and go on: the files hold everything."""


class TrackerRefused(TrackerUnavailable):
    """Redis wants a password, or another one; `reason` says which."""

    def __init__(self, url: str, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{url}: {reason}")


class _Credentials(redis.CredentialProvider):
    """Keeps the password out of the connection's arguments, which redis shows."""

    def __init__(self, user: str, password: SecretStr | None) -> None:
        self._user, self._password = user, password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = "" if self._password is None else self._password.get_secret_value()
        return (self._user, password) if self._user else (password,)


class Tracker:
    """Client of one run's part of the index; may be used from several threads.

    Args:
      url: redis://, rediss:// or unix:// URL, without a password. Nothing is connected before the first call.
      run: name of the run that the publishing methods write about.
      password: of the server, for the user that the URL names, if it names one.
      clock: monotonic seconds, for the cool-down after a failure.
    Raises: UserError for a URL of another form; every method raises TrackerUnavailable while Redis is away, or does
      not let us in.
    """

    def __init__(
        self,
        url: str,
        run: str,
        *,
        password: SecretStr | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if (found := secret_in(url)) is not None:
            raise UserError("cluster.redis_url", url, f"holds {found}", "hand the password over apart from it")
        scheme, separator, rest = url.partition("://")
        user, at, place = rest.rpartition("@")
        try:
            self._redis = redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
                f"{scheme}{separator}{place}",
                credential_provider=_Credentials(unquote(user), password) if at or password is not None else None,
                socket_timeout=_TIMEOUT_SECONDS,
                socket_connect_timeout=_TIMEOUT_SECONDS,
                retry=Retry(NoBackoff(), 0),
                decode_responses=True,
            )
        except ValueError as error:
            raise UserError("cluster.redis_url", url, "is no Redis URL", "write redis://HOST:PORT/0") from error
        self.url, self.run = url, run
        self._has_password = password is not None
        self._clock = clock
        self._silent_until = 0.0

    def close(self) -> None:
        """Closes the connections."""
        self._redis.close()

    def ping(self) -> None:
        """Returns if Redis answers."""
        self._call(lambda client: client.ping())

    def register_run(self, manifest: Mapping[str, Any]) -> None:
        """Publishes the run's manifest under its name."""
        text = json.dumps(dict(manifest), default=str)
        self._call(lambda client: client.hset(f"{_PREFIX}:runs", self.run, text))

    def runs(self) -> list[Record]:
        """Manifests of all runs, the oldest first."""
        found = cast(dict[str, str], self._call(lambda client: client.hgetall(f"{_PREFIX}:runs")))
        return sorted((json.loads(text) for text in found.values()), key=lambda manifest: manifest.get("created", 0.0))

    def publish_weights(self, version: int, path: str, sha256: str) -> None:
        """Announces a policy version whose file is complete."""
        text = json.dumps([version, path, sha256])
        self._call(lambda client: client.set(self._key("weights"), text))

    def latest_weights(self) -> tuple[int, str, str] | None:
        """Newest announced (version, path, SHA-256), or None."""
        text = cast(str | None, self._call(lambda client: client.get(self._key("weights"))))
        if text is None:
            return None
        version, path, sha256 = json.loads(text)
        return int(version), str(path), str(sha256)

    def publish_score(self, record: Mapping[str, Any]) -> None:
        """Appends an evaluation, in the form of `RunFolder.append_score`."""
        text = json.dumps(dict(record))
        self._call(lambda client: client.rpush(self._key("scores"), text))

    def scores(self) -> list[Record]:
        """All evaluations, the oldest first."""
        return self._objects(lambda client: client.lrange(self._key("scores"), 0, -1))

    def publish_checkpoint(self, record: Mapping[str, Any]) -> None:
        """Announces the newest complete checkpoint."""
        text = json.dumps(dict(record), default=str)
        self._call(lambda client: client.set(self._key("checkpoint"), text))

    def latest_checkpoint(self) -> Record | None:
        """Newest announced checkpoint, or None."""
        text = cast(str | None, self._call(lambda client: client.get(self._key("checkpoint"))))
        return None if text is None else cast(Record, json.loads(text))

    def publish_status(self, role: str, index: int, status: Mapping[str, Any], ttl_seconds: float) -> None:
        """Publishes a heartbeat that vanishes after `ttl_seconds`."""
        text, milliseconds = json.dumps(dict(status), default=str), max(1, int(ttl_seconds * 1000))
        key = f"{self._key('status')}:{role}-{index}"
        self._call(lambda client: client.set(key, text, px=milliseconds))

    def statuses(self) -> dict[str, Record]:
        """Heartbeats that have not vanished, by "<role>-<index>"."""
        prefix = f"{self._key('status')}:"

        def read(client: redis.Redis) -> dict[str, Record]:
            keys = sorted(cast(list[str], list(client.scan_iter(f"{prefix}*"))))  # pyright: ignore[reportUnknownMemberType,reportUnknownArgumentType]
            values = cast(list[str | None], client.mget(keys)) if keys else []
            return {key.removeprefix(prefix): json.loads(text) for key, text in zip(keys, values, strict=True) if text}

        return self._call(read)

    def rebuild(self, folder: RunFolder) -> None:
        """Makes the index of this run say what its folder says, in one transaction."""
        weights = SnapshotFolder(folder.snapshots).latest()
        scores = [json.dumps(record) for record in folder.scores()]

        def write(client: redis.Redis) -> None:
            with client.pipeline(transaction=True) as pipe:
                pipe.hset(f"{_PREFIX}:runs", self.run, json.dumps(folder.manifest))
                pipe.delete(self._key("scores"), self._key("weights"))
                if scores:
                    pipe.rpush(self._key("scores"), *scores)
                if weights is not None:
                    pipe.set(self._key("weights"), json.dumps([weights.version, weights.path, weights.sha256]))
                pipe.execute()

        self._call(write)

    def _key(self, name: str) -> str:
        return f"{_PREFIX}:run:{self.run}:{name}"

    def _objects(self, command: Callable[[redis.Redis], Any]) -> list[Record]:
        return [cast(Record, json.loads(text)) for text in cast(list[str], self._call(command))]

    def _call(self, command: Callable[[redis.Redis], T]) -> T:
        if self._clock() < self._silent_until:
            raise TrackerUnavailable(f"{self.url} did not answer; asking again soon")
        try:
            return command(self._redis)
        except redis.AuthenticationError as error:
            self._silent_until = self._clock() + _COOL_DOWN_SECONDS
            reason = "the password is refused" if self._has_password else "it wants a password"
            raise TrackerRefused(self.url, reason) from error
        except redis.RedisError as error:
            self._silent_until = self._clock() + _COOL_DOWN_SECONDS
            raise TrackerUnavailable(f"{self.url}: {error}") from error
