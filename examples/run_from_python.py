"""Load a preset, change it, run it, watch it, and evaluate and publish what it has learned.

python examples/run_from_python.py [ENV_FRAMES]
"""

import sys
import tempfile

import upcycle


def show(progress: upcycle.Progress) -> None:
    """Called whenever the run has come further; what it raises ends the wait."""
    score = "no score yet" if progress.mean_return is None else f"score {progress.mean_return:.2f}"
    print(f"{progress.state:9} {progress.phase or '':5} {progress.env_frames:6} frames, {score}", flush=True)


def main() -> None:
    """Trains Catch from scratch."""
    frames = int(sys.argv[1]) if len(sys.argv) > 1 else 12_000
    config = upcycle.load_preset("catch", {"rl.env_frames": frames, "evaluation.final_episodes": 20})
    with tempfile.TemporaryDirectory() as runs, upcycle.run(config, runs=runs) as run:
        summary = run.wait(timeout_seconds=600, on_progress=show)
        print(f"{summary['state']}: {summary['learner_steps']} updates, return {summary['final']['mean_return']:.2f}")
        games = upcycle.evaluate(run, episodes=20, seed=1)
        print(f"20 more games: {games.mean_return:.2f} ({games.interval.low:.2f} to {games.interval.high:.2f})")
        record = upcycle.publish_teacher(run, name="catcher", store=f"{runs}/teachers")
        print(f"now a teacher: {record.id}, with {len(upcycle.open_log(run))} transitions")


if __name__ == "__main__":
    main()
