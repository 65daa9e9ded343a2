"""Five hundred random networks: `diagram` has every fixed point that `enumerate` proves to exist (`make stress`)."""

import equinox
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from rnn_dynamics import activations, fixed_points
from rnn_dynamics.bifurcation import diagram
from rnn_dynamics.models import PascanuRNN


class Biased(equinox.Module):
    """A tanh network whose biases move along a line."""

    w: Float[Array, "n n"]
    b: Float[Array, " n"]
    direction: Float[Array, " n"]

    def __call__(self, p):
        return PascanuRNN(self.w, None, self.b + p * self.direction, activations.tanh)


def crossings(branch, p):
    """Where the branch's polyline passes p."""
    before, after = branch.p[:-1] - p, branch.p[1:] - p
    at = np.flatnonzero(before * after <= 0)
    part = (before[at] / (before[at] - after[at]))[:, None]
    return (1 - part) * branch.x[at] + part * branch.x[at + 1]


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(500))
def test_the_diagram_of_a_random_network_has_every_fixed_point_that_is_proved_to_exist(seed):
    generator = np.random.default_rng(seed)
    n = 1 + seed % 3
    w = generator.uniform(0.5, 4.0) * generator.standard_normal((n, n))
    family = Biased(*map(jnp.asarray, (w, *generator.standard_normal((2, n)))))
    found = diagram(family, (-1.0, 1.0), jnp.asarray(generator.standard_normal((5, n))), num_doublings=0, num_values=9)
    for p in generator.uniform(-1.0, 1.0, 4):
        proved = fixed_points.enumerate(family(p))
        assert proved.complete
        guesses = np.concatenate([crossings(branch, p) for branch in found.branches])
        guesses = np.resize(guesses, (16 * -(-len(guesses) // 16), n))  # few shapes to compile
        drawn = np.asarray(fixed_points.find(family(p), jnp.asarray(guesses)).x)
        for x in np.asarray(proved.x):
            # both are solved for to the rounding floor; beside a fold that leaves √(100 ε)
            assert np.abs(drawn - x).max(axis=1).min() < 1e-6
