"""Two processes that share the tests must know them by the same names, whenever and wherever each of them looks."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import COLLECTED
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
def test_names_of_tests_depend_on_no_clock_address_hash_seed_or_home(
    pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """Those of this session, against those that another process finds in a later second."""
    names, collected_at = pytestconfig.stash[COLLECTED]
    while int(time.time()) <= collected_at:
        time.sleep(0.05)
    elsewhere = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2",
        "TZ": "Pacific/Kiritimati",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
    }
    again = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *pytestconfig.args],
        cwd=ROOT,
        env=elsewhere,
        capture_output=True,
        text=True,
        check=False,
        timeout=550,
    )
    assert again.returncode == 0, again.stdout + again.stderr
    found = [line for line in again.stdout.splitlines() if line.startswith("tests/")]
    assert sorted(set(names) ^ set(found)) == []
    assert len(names) == len(found) == len(set(found))
