"""The systems: a model is a map `(x, u) -> x`, or a field `(x, u) -> dx/dt`, that owns its parameters.

Row 2 of the layer table. `pascanu` stands first, `elman` builds on it; `doya` and `ctrnn` stand alone; `reference`
builds on `pascanu` and `ctrnn`. All are `equinox.Module`s.
"""

from rnn_dynamics.models import reference
from rnn_dynamics.models.ctrnn import CTRNN
from rnn_dynamics.models.doya import DoyaNeuron
from rnn_dynamics.models.elman import ElmanRNN
from rnn_dynamics.models.pascanu import PascanuRNN

__all__ = ["CTRNN", "DoyaNeuron", "ElmanRNN", "PascanuRNN", "reference"]
