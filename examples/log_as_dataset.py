"""An experience log as NumPy columns, and as a PyTorch dataset that workers share.

python examples/log_as_dataset.py [RUN_FOLDER]      without a run it records a small log first
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

import upcycle


def record_a_log(folder: Path) -> Path:
    """Records a random walk, as replay keeps what it accepts."""
    rng = np.random.default_rng(0)
    env = upcycle.EnvConfig(task="CartPole-v1")  # what the log says about its environment
    with (
        upcycle.start_replay(frame_shape=(2,), num_actions=2, max_n_step=3, log=folder, env=env) as server,
        server.client() as replay,
    ):
        frame = np.zeros(2, np.float32)
        for step in range(1, 2001):
            action = int(rng.integers(2))
            following = frame + rng.normal(size=2).astype(np.float32)
            replay.add(upcycle.Transition(frame, action, 1.0, following, terminated=step % 40 == 0))
            frame = np.zeros(2, np.float32) if step % 40 == 0 else following
    return folder


def main() -> None:
    """Reads a log in both ways."""
    with tempfile.TemporaryDirectory() as folder:
        log = upcycle.open_log(sys.argv[1] if len(sys.argv) > 1 else record_a_log(Path(folder) / "log"))
        columns = log.columns(newest=500)
        print(f"{len(log)} transitions of {log.env.task}; mean reward {columns['reward'].mean():.2f}")
        for name, column in columns.items():
            print(f"  {name:15} {column.dtype} {list(column.shape)}")

        dataset = log.dataset(batch_size=256, n_step=3, gamma=0.99, shuffle_seed=0)
        for batch in DataLoader(dataset, batch_size=None, num_workers=2):
            print(f"  batch of {len(batch['action'])}: mean 3-step return {batch['n_step_return'].mean():.3f}")


if __name__ == "__main__":
    main()
