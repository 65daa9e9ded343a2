"""Continuation: one branch of fixed points by pseudo-arclength, its special points located, and their normal forms.

Row 7 of the layer table: above `fixed_points`. `linear` stands first, then `arclength` (any curve), `events`, `branch`
and `normal_forms`.
"""

from rnn_dynamics.continuation.branch import Branch, Event, trace
from rnn_dynamics.continuation.normal_forms import (
    NormalForm,
    TwoCycle,
    branch_directions,
    flip_direction,
    normal_form,
)

__all__ = ["Branch", "Event", "NormalForm", "TwoCycle", "branch_directions", "flip_direction", "normal_form", "trace"]
