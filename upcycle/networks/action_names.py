"""The meaning of an environment's actions, in order; EnvPool only tells their number.

The Arcade Learning Environment numbers all joystick actions, and each Atari game has a minimal set of them, in the
order of their numbers. The sets here are those of ALE 0.12.1.
"""

from collections.abc import Mapping
from typing import Final

from upcycle.config.run import EnvConfig

_JOYSTICK: Final = (
    "noop",
    "fire",
    "up",
    "right",
    "left",
    "down",
    "up + right",
    "up + left",
    "down + right",
    "down + left",
    "up + fire",
    "right + fire",
    "left + fire",
    "down + fire",
    "up + right + fire",
    "up + left + fire",
    "down + right + fire",
    "down + left + fire",
)
"""By ALE's numbers."""
_MINIMAL: Final = {
    0x3FFFF: (
        "Adventure Alien BankHeist BattleZone Berzerk Boxing Centipede ChopperCommand Crossbow Darkchambers "
        "Defender DonkeyKong DoubleDunk Earthworld ElevatorAction Entombed Et FishingDerby FlagCapture "
        "Frostbite Gravitar Hangman HauntedHouse Hero HumanCannonball IceHockey Jamesbond Kangaroo Klax Krull "
        "LaserGates MarioBros MiniatureGolf MontezumaRevenge Pitfall Pitfall2 PrivateEye Riverraid RoadRunner "
        "Robotank Seaquest Solaris SpaceWar StarGunner Superman Tennis Trondead Venture VideoCube WordZapper "
        "YarsRevenge Zaxxon"
    ),
    0x0181B: "AirRaid Carnival DemonAttack Galaxian NameThisGame Pong SirLancelot SpaceInvaders",
    0x003FD: "Asterix CrazyClimber Koolaid LostLuggage MsPacman",
    0x03C3F: "Amidar MrDo TimePilot WizardOfWor",
    0x0003F: "BasicMath KingKong Qbert",
    0x02427: "Bowling Pooyan UpNDown",
    0x0003D: "Frogger Pacman Surround",
    0x003FF: "Othello TicTacToe3d VideoChess",
    0x01803: "Atlantis Atlantis2",
    0x00027: "Blackjack Casino",
    0x0001B: "Breakout Kaboom",
    0x0181F: "Assault",
    0x0FCFF: "Asteroids",
    0x0001A: "Backgammon",
    0x018DF: "BeamRider",
    0x01B3B: "Enduro",
    0x00025: "Freeway",
    0x01C1F: "Gopher",
    0x3FBFD: "JourneyEscape",
    0x03FFF: "KeystoneKapers",
    0x3FB3D: "KungFuMaster",
    0x0383B: "Phoenix",
    0x00019: "Skiing",
    0x0003B: "Tetris",
    0x01BFF: "Turmoil",
    0x01C3D: "Tutankham",
    0x003C2: "VideoCheckers",
    0x01C3F: "VideoPinball",
}
"""Games by their minimal set, in which bit i stands for action i."""
_FULL: Final = 0x3FFFF
_FULL_WITHOUT_BUTTON: Final = 0x003FD
_WITHOUT_BUTTON: Final = ("LostLuggage-v5", "Skiing-v5")
"""Games without the joystick's button, for which ALE leaves it out of the full set too."""
_GAMES: Final[Mapping[str, int]] = {
    f"{name}-v5": actions for actions, names in _MINIMAL.items() for name in names.split()
}
_OTHERS: Final[Mapping[str, tuple[str, ...]]] = {"CartPole-v1": ("push left", "push right")}


def action_names(env: EnvConfig) -> tuple[str, ...]:
    """The meaning of each action of `env`, in order; empty if the task is not listed here or not EnvPool's."""
    if env.factory:
        return ()
    if env.task not in _GAMES:
        return _OTHERS.get(env.task, ())
    actions = _GAMES[env.task]
    if env.full_action_space:
        actions = _FULL_WITHOUT_BUTTON if env.task in _WITHOUT_BUTTON else _FULL
    return tuple(name for number, name in enumerate(_JOYSTICK) if actions >> number & 1)
