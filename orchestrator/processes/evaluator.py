"""The evaluator: plays whole games with one policy version under the evaluation protocol, and writes their score.

These scores are the only judgement of a policy: the distillation multiplier, the report and the summary all use them,
never the returns of exploring actors.
"""

import time
from dataclasses import asdict
from typing import Any, Final, Literal

import structlog

from actors.envs import env_spec
from actors.policy import QPolicy
from actors.rollout import play_episodes
from actors.weights import WeightSubscriber
from orchestrator.baselines import Baselines
from upcycle.config.run import RunConfig
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import Record, RunFolder
from upcycle.runs.runtime import Games, OnGames, StopSignal, seed_for
from upcycle.runs.snapshots import Snapshot, SnapshotFolder, SnapshotRef
from upcycle.runs.tracker import Tracker, TrackerUnavailable

_log = structlog.get_logger(__name__)

_POLL_SECONDS: Final = 0.5
_RETURN_DIGITS: Final = 6


def evaluate_snapshot(
    config: RunConfig,
    snapshot: Snapshot,
    baselines: Baselines,
    *,
    episodes: int,
    kind: Literal["evaluation", "playoff", "final"],
    stop: StopSignal,
    threads: int = 1,
    on_games: OnGames | None = None,
) -> Record | None:
    """Plays `episodes` whole games with the weights of one policy version.

    The games depend on the run's seed, the version and the kind alone.

    Returns: a score in the form of `RunFolder.append_score`; None if `stop` was set before the last game ended, as the
      games that had ended would be biased towards short ones.
    Raises: CorruptDataError if the weights do not fit the run's network.
    """
    policy = QPolicy(config.network, env_spec(config.env))
    policy.load(snapshot.tensors)
    version = int(snapshot.metadata["policy_version"])
    results = play_episodes(
        config.env,
        policy.q_values,
        episodes=episodes,
        epsilon=config.evaluation.epsilon,
        lanes=config.evaluation.lanes,
        seed=seed_for(config.seed, f"evaluator/{kind}", version),
        threads=threads,
        stop=stop,
        on_games=on_games,
    )
    if not results.complete:
        return None
    return {
        "phase": snapshot.metadata["phase"],
        "env_frames": int(snapshot.metadata["env_frames"]),
        "learner_steps": int(snapshot.metadata["learner_steps"]),
        "policy_version": version,
        "mean_return": round(results.mean_return, _RETURN_DIGITS),
        "normalised": baselines.normalise(results.mean_return),
        "episodes": len(results.returns),
        "returns": [float(value) for value in results.returns],
        "kind": kind,
        "time": time.time(),
    }


class Evaluator:
    """Scores the newest policy version, at most one every `evaluation.period_seconds`, until `stop` is set.

    After the offline phase, in which no frames are played, versions must also be `evaluation.period_frames` apart.
    Copies of the best versions so far are kept beside the newest ones, so a run that ends badly still has a good
    teacher. A version that cannot be read (pruned meanwhile, torn) is logged and skipped.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        *,
        baselines: Baselines,
        metrics: Metrics,
        stop: StopSignal,
        tracker: Tracker | None = None,
    ) -> None:
        self._config, self._folder, self._baselines = config, folder, baselines
        self._metrics, self._stop, self._tracker = metrics, stop, tracker
        self._snapshots = SnapshotFolder(folder.snapshots)
        self._subscriber = WeightSubscriber(self._snapshots, tracker, poll_seconds=_POLL_SECONDS)
        scores = [record for record in folder.scores() if record["kind"] == "evaluation"]
        self._newest = max((int(record["policy_version"]) for record in scores), default=-1)
        self._frames = max((int(record["env_frames"]) for record in scores), default=None)
        self._returns = {int(record["policy_version"]): float(record["mean_return"]) for record in scores}
        self._score: Record | None = None
        self._games: Games | None = None

    def run(self) -> None:
        """Evaluates until `stop` is set. Raises: UserError if the disk is full."""
        due = time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            weights = self._subscriber.poll(now, wanted=self._is_due) if now >= due else None
            if weights is None:
                self._stop.wait(_POLL_SECONDS)
                continue
            due = time.monotonic() + self._config.evaluation.period_seconds
            self._evaluate(weights)

    def status(self) -> dict[str, Any]:
        """For the driver: the newest score, its policy version, and the progress of the games under way."""
        games = self._games
        return {
            "score": self._score,
            "policy_version": self._newest,
            "games": None if games is None else asdict(games),
        }

    def _is_due(self, ref: SnapshotRef) -> bool:
        """Whether a version is newer than the one evaluated last, and by enough frames.

        Raises: CorruptDataError if it cannot be read.
        """
        if ref.version <= self._newest:
            return False
        if self._frames is None or self._config.evaluation.period_frames == 0:
            return True
        metadata = self._snapshots.metadata(ref)
        played = int(metadata["env_frames"]) - self._frames
        return metadata["phase"] == "offline" or played >= self._config.evaluation.period_frames

    def _evaluate(self, snapshot: Snapshot) -> None:
        record = evaluate_snapshot(
            self._config,
            snapshot,
            self._baselines,
            episodes=self._config.evaluation.episodes,
            kind="evaluation",
            stop=self._stop,
            on_games=self._note_games,
        )
        self._games = None
        if record is None:
            return
        self._newest, self._score = int(record["policy_version"]), {**record, "returns": []}
        self._frames = int(record["env_frames"])
        self._folder.append_score(record)
        self._rank(snapshot, float(record["mean_return"]))
        self._metrics.set("evaluator_mean_return", record["mean_return"])
        self._metrics.set("evaluator_policy_version", self._newest)
        if record["normalised"] is not None:
            self._metrics.set("evaluator_normalised_score", record["normalised"])
        self._metrics.increment("evaluator_episodes_total", record["episodes"])
        _log.info("evaluated", **self._score)
        if self._tracker is not None:
            try:
                self._tracker.publish_score(record)
            except TrackerUnavailable:
                self._metrics.increment("tracker_unavailable_total")

    def _rank(self, snapshot: Snapshot, mean_return: float) -> None:
        """Keeps a copy of a version that ranks among the best so far; ties go to the later version."""
        self._returns[self._newest] = mean_return
        ranking = sorted(self._returns, key=lambda version: (self._returns[version], version), reverse=True)
        finalists = ranking[: self._config.evaluation.finalists]
        if self._newest in finalists:
            self._snapshots.keep_finalist(snapshot, self._newest)
        self._snapshots.dismiss_finalists(finalists)
        if self._newest == ranking[0]:
            self._snapshots.keep_best(snapshot)

    def _note_games(self, games: Games) -> None:
        self._games = games
