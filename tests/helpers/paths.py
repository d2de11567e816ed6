"""Where the project, its presets and the tests' files are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRESETS = ROOT / "deploy" / "presets"
FIXTURES = ROOT / "tests" / "fixtures"
