"""How everything here is timed: contenders take turns, so that what else the machine does hits all of them alike."""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def side_by_side(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round, A B C A B C ..., after a first call of each that is not counted."""
    for run in contenders.values():
        jax.block_until_ready(run())
    seconds = {name: [] for name in contenders}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in contenders.items():
                start = time.perf_counter()
                result = jax.block_until_ready(run())
                seconds[name].append(time.perf_counter() - start)
                del result  # what it costs to give the memory back is nobody's
    finally:
        gc.enable()
    return seconds


def quotients(above: list[float], below: list[float]) -> list[float]:
    """One contender's time over another's, round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def row(what: str, measure: str, values: list[float], target: str = "") -> dict[str, Any]:
    """One line of the table: the least, the middle and the largest of a measure's values in all rounds.

    `target` is "≥ 8" or "≤ 1.5", a bound on the middle value, or empty.
    """
    middle = statistics.median(values)
    met = None
    if target:
        sign, bound = target.split()[:2]
        met = middle >= float(bound) if sign == "≥" else middle <= float(bound)
    spread = [round(value, 3) for value in (min(values), middle, max(values))]
    return {"what": what, "measure": measure, "spread": spread, "target": target, "met": met}


def absent(what: str, measure: str, target: str, why: str) -> dict[str, Any]:
    """A line of the table for a comparison that this machine cannot make."""
    return {"what": what, "measure": measure, "spread": None, "target": target, "met": None, "why": why}
