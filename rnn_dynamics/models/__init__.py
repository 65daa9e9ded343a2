"""The systems: every model is a map `(x, u) -> x` that owns its parameters, an `equinox.Module`.

Row 2 of the layer table. `pascanu` stands first; `elman` and `reference` build on it; `doya` stands alone.
"""

from rnn_dynamics.models import reference
from rnn_dynamics.models.doya import DoyaNeuron
from rnn_dynamics.models.elman import ElmanRNN
from rnn_dynamics.models.pascanu import PascanuRNN

__all__ = ["DoyaNeuron", "ElmanRNN", "PascanuRNN", "reference"]
