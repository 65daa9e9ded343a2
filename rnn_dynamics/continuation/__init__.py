"""Continuation: branches of fixed points, their special points and normal forms, and curves of these in two parameters.

Row 7 of the layer table: above `fixed_points`. `linear` stands first, then `arclength` (any curve), `events`, `branch`
and `normal_forms`; and `defining`, `codim1`, `curves` and `positions`.
"""

from rnn_dynamics.continuation.branch import Branch, Event, trace
from rnn_dynamics.continuation.curves import (
    Curve,
    CurveEvent,
    flip_curve,
    fold_curve,
    hopf_curve,
    neimark_sacker_curve,
)
from rnn_dynamics.continuation.normal_forms import (
    NormalForm,
    TwoCycle,
    branch_directions,
    flip_direction,
    normal_form,
)
from rnn_dynamics.continuation.positions import fold_position

__all__ = [
    "Branch",
    "Curve",
    "CurveEvent",
    "Event",
    "NormalForm",
    "TwoCycle",
    "branch_directions",
    "flip_curve",
    "flip_direction",
    "fold_curve",
    "fold_position",
    "hopf_curve",
    "neimark_sacker_curve",
    "normal_form",
    "trace",
]
