"""Predict the height of the tide from a harbour's harmonic constituents.

A tide is a sum of cosines whose speeds come from astronomy and whose amplitudes and phases come from years of
measurements at one place. This module knows nothing about where the numbers come from; it only adds them up, finds the
turning points, and prints a table that fits on one page of a logbook.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

# Degrees per hour. The first four explain most of what a sailor sees in northern Europe.
SPEEDS = {
    "M2": 28.9841042,
    "S2": 30.0,
    "N2": 28.4397295,
    "K1": 15.0410686,
    "O1": 13.9430356,
    "M4": 57.9682084,
}


@dataclass(frozen=True)
class Constituent:
    name: str
    amplitude: float  # metres
    phase: float  # degrees, relative to the epoch

    def height(self, hours: float) -> float:
        angle = math.radians(SPEEDS[self.name] * hours - self.phase)
        return self.amplitude * math.cos(angle)


@dataclass(frozen=True)
class Harbour:
    name: str
    mean_level: float
    epoch: datetime
    constituents: tuple[Constituent, ...]

    def height(self, when: datetime) -> float:
        hours = (when - self.epoch).total_seconds() / 3600
        return self.mean_level + sum(c.height(hours) for c in self.constituents)


def read_harbour(path: str) -> Harbour:
    """Read `name,amplitude,phase` rows; a row called Z0 holds the mean level."""
    mean, found = 0.0, []
    with open(path, newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if not row or row[0].startswith("#"):
                continue
            try:
                name, amplitude, phase = row[0].strip(), float(row[1]), float(row[2])
            except (IndexError, ValueError) as error:
                raise SystemExit(f"{path}:{number}: expected name,amplitude,phase ({error})")
            if name == "Z0":
                mean = amplitude
            elif name in SPEEDS:
                found.append(Constituent(name, amplitude, phase))
            else:
                print(f"{path}:{number}: unknown constituent {name}, left out", file=sys.stderr)
    return Harbour(path, mean, datetime(2020, 1, 1, tzinfo=timezone.utc), tuple(found))


def turning_points(harbour: Harbour, start: datetime, hours: int) -> Iterator[tuple[datetime, float, str]]:
    """Yield high and low waters, refined to about a second by halving the interval."""
    step = timedelta(minutes=10)
    before, here = harbour.height(start), harbour.height(start + step)
    when = start + step
    for _ in range(hours * 6):
        after = harbour.height(when + step)
        if (here - before) * (after - here) < 0:
            kind = "high" if here > before else "low"
            exact = refine(harbour, when - step, when + step, 1 if kind == "high" else -1)
            yield exact, harbour.height(exact), kind
        before, here, when = here, after, when + step


def refine(harbour: Harbour, left: datetime, right: datetime, sign: int) -> datetime:
    golden = (math.sqrt(5) - 1) / 2
    while right - left > timedelta(seconds=1):
        a = right - (right - left) * golden
        b = left + (right - left) * golden
        if sign * harbour.height(a) > sign * harbour.height(b):
            right = b
        else:
            left = a
    return left + (right - left) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--days", type=int, default=2)
    arguments = parser.parse_args()
    harbour = read_harbour(arguments.file)
    start = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    for when, height, kind in turning_points(harbour, start, 24 * arguments.days):
        print(f"{when:%a %d %b %H:%M}  {kind:<4}  {height:5.2f} m")


if __name__ == "__main__":
    main()
