"""How long the first answer takes: `import course_lib` and `course --help`, each in a fresh process.

    python benchmarks/startup.py [--runs 15]

Prints medians in milliseconds and whether the bars of the course hold (200 ms and 500 ms). The bare
interpreter is timed in the same run, alternated, as the floor below which nothing can go.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "bare interpreter": [sys.executable, "-c", "pass"],
    "import course_lib": [sys.executable, "-c", "import course_lib"],
    "course --help": [sys.executable, "-m", "course_lib.cli", "--help"],
}
BARS = {"import course_lib": 0.2, "course --help": 0.5}


def seconds(command: list[str]) -> float:
    """The wall time of one run. Raises CalledProcessError where the command fails."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def measure(runs: int) -> dict[str, list[float]]:
    """Times of each command, alternated, after one run that warms the disk's cache."""
    for command in COMMANDS.values():
        seconds(command)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    return times


def main() -> int:
    """Print the table; exit code 1 where a bar does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=15)
    times = measure(parser.parse_args().runs)
    held = True
    for name, measured in times.items():
        median, bar = statistics.median(measured), BARS.get(name)
        verdict = (
            "" if bar is None else f"   bar {bar * 1000:.0f} ms: {'held' if median < bar else 'NOT held'}"
        )
        held = held and (bar is None or median < bar)
        print(f"{name:20s} median {median * 1000:6.0f} ms   slowest {max(measured) * 1000:6.0f} ms{verdict}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
