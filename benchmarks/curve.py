"""Draws the learning curve of summaries: `python -m benchmarks.curve SUMMARY --output X.png [--control SUMMARY]`.

A summary is a run folder or its `summary.json`; `docs/results/` keeps the latter, and this makes the pictures again.
"""

import argparse
from pathlib import Path

from orchestrator.reports.picture import to_png
from orchestrator.reports.run_figure import learning_curve
from orchestrator.reports.summary import read_summary
from upcycle.files import write_atomically


def main() -> None:
    """Reads, draws, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("summary", type=Path, help="run folder, or summary.json")
    parser.add_argument("--control", type=Path, help="the same agent from scratch")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    arguments = parser.parse_args()
    control = read_summary(arguments.control) if arguments.control else None
    write_atomically(arguments.output, to_png(learning_curve(read_summary(arguments.summary), control)))


if __name__ == "__main__":
    main()
