"""What Stable-Baselines3's Atari wrappers do to a game by default; CleanRL's agents are trained behind them as well.

Source: Stable-Baselines3 2.9.2, `common/atari_wrappers.py`; the limit of an episode is Gym's, of `NoFrameskip-v4`.
"""

from typing import Final

from teacher_store.importers.imported import EnvFields

FRAME_SKIP: Final = 4
PROTOCOL: Final[EnvFields] = {
    "frame_skip": FRAME_SKIP,
    "resize_order": "pool_first",
    "interpolation": "area",
    "full_action_space": False,
    "sticky_actions": 0.0,
    "noop_max": 30,
    "fire_reset": True,
    "episodic_life": True,
    "clip_rewards": True,
    "max_episode_steps": 27_000,
}
"""But for frames, their stack and what fills it."""
FIRE: Final = "opens an episode with FIRE and then the action after it; EnvPool with FIRE alone."
"""What of it EnvPool does not do, after the name of a framework."""
