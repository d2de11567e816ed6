"""A torso of your own in a run: a small convolution over Catch's grid, which its observations hold as a vector.

python examples/own_network.py [ENV_FRAMES]      docs/extending.md says what a torso is given and must return
"""

import sys
import tempfile

from torch import nn

import upcycle

ROWS, COLUMNS = 10, 5


@upcycle.torso
def grid_torso(*, stack: int, frame_shape: tuple[int, ...], channels: int = 8) -> tuple[nn.Module, int]:
    """From [B, stack, 50] to [B, features], and the number of features."""
    assert frame_shape == (ROWS * COLUMNS,), f"frames of {frame_shape} are no grid of Catch"
    layers = nn.Sequential(
        nn.Unflatten(2, (ROWS, COLUMNS)), nn.Conv2d(stack, channels, 3, padding=1), nn.ReLU(), nn.Flatten()
    )
    return layers, channels * ROWS * COLUMNS


def main() -> None:
    """Trains Catch with the torso. The run's processes import this file, so it must be on their path: it is, here."""
    config = upcycle.load_preset(
        "catch",
        {
            "network.custom_torso": "own_network:grid_torso",
            "network.torso_options.channels": 4,
            "rl.env_frames": int(sys.argv[1]) if len(sys.argv) > 1 else 12_000,
            "evaluation.final_episodes": 20,
        },
    )
    with tempfile.TemporaryDirectory() as runs, upcycle.run(config, runs=runs) as run:
        summary = run.wait(timeout_seconds=600)
    print(f"{summary['state']}: return {summary['final']['mean_return']:.2f}")


if __name__ == "__main__":
    main()
