"""How everything here is timed: contenders take turns, and a round in which the machine had other work is repeated."""

import gc
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

UNDISTURBED = 0.03
"""A round counts if other processes had less than this share of one core meanwhile."""
PATIENCE = 600.0
"""Seconds of waiting for such rounds, after which the least disturbed ones have to do."""
SHORT = 0.05
"""Seconds that a contender's turn takes at least: what is shorter is called several times, as a loop would call it."""


def side_by_side(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds a call of each contender in each round, A B C A B C ..., after first calls that are not counted."""
    turns = {name: (run, _num_calls(run)) for name, run in contenders.items()}
    done, end = [], time.monotonic() + PATIENCE
    gc.collect()
    gc.disable()
    try:
        while sum(share < UNDISTURBED for share, _ in done) < rounds and (len(done) < rounds or time.monotonic() < end):
            done.append(_round(turns))
            if done[-1][0] >= UNDISTURBED:
                time.sleep(0.5)
    finally:
        gc.enable()
    best = sorted(done, key=lambda each: each[0])[:rounds]
    if best[-1][0] >= UNDISTURBED:
        print(f"other processes had up to {best[-1][0]:.0%} of a core", file=sys.stderr, flush=True)
    return {name: [seconds[name] for _, seconds in best] for name in contenders}


def _num_calls(run):
    """How many calls make a turn, from the second call: the first compiles, though not for half a minute."""
    seconds = 0.0
    for _ in range(2):
        before = time.perf_counter()
        jax.block_until_ready(run())
        seconds = time.perf_counter() - before
        if seconds > 30:
            break
    return math.ceil(SHORT / seconds)


def _round(turns):
    """What other processes had of a core meanwhile, and the seconds a call of each contender."""
    seconds, start, others = {}, time.perf_counter(), _seconds_of_others()
    for name, (run, num_calls) in turns.items():
        before = time.perf_counter()
        for _ in range(num_calls):
            result = jax.block_until_ready(run())
        seconds[name] = (time.perf_counter() - before) / num_calls
        del result  # what it costs to give the last one's memory back is nobody's
    return (_seconds_of_others() - others) / (time.perf_counter() - start), seconds


def _seconds_of_others():
    """Processor time that all other processes have had since the start; 0 where the system does not say."""
    statistics_file = Path("/proc/stat")
    if not statistics_file.exists():
        return 0.0
    user, nice, system, _, _, *interrupts_and_stolen = map(int, statistics_file.read_text().split("\n")[0].split()[1:9])
    busy = user + nice + system + sum(interrupts_and_stolen)
    return busy / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def quotients(above: list[float], below: list[float]) -> list[float]:
    """One contender's time over another's, round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def row(what: str, measure: str, values: list[float], target: str = "") -> dict[str, Any]:
    """One line of the table: the least, the middle and the largest of a measure's values in all rounds.

    `target` is "≥ 8" or "≤ 1.5", a bound on the middle value, or empty.
    """
    middle = float(statistics.median(values))
    met = None
    if target:
        sign, bound = target.split()[:2]
        met = middle >= float(bound) if sign == "≥" else middle <= float(bound)
    spread = [round(value, 3) for value in (min(values), middle, max(values))]
    return {"what": what, "measure": measure, "spread": spread, "target": target, "met": met}


def absent(what: str, measure: str, target: str, why: str) -> dict[str, Any]:
    """A line of the table for a comparison that this machine cannot make."""
    return {"what": what, "measure": measure, "spread": None, "target": target, "met": None, "why": why}
