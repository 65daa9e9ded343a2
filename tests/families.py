"""Families whose numbers are their input or their weights: one compilation serves all tests of one size."""

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnn_dynamics.models import CTRNN


def scalar_family(p):
    """Every map of one unit here: k iterations of Σ c_ij x^i p^j + a max(x, 0) + g σ(w x + s p).

    Its numbers are the input, so one compilation serves all tests.
    """

    def step(x, u):
        powers_p = jnp.stack([jnp.ones_like(p), p, p**2])

        def once(_, x):
            powers_x = jnp.stack([jnp.ones_like(x), x, x**2, x**3])
            smooth = u["g"] * jax.nn.sigmoid(u["w"] * x + u["s"] * p)
            return jnp.einsum("ij,in,j->n", u["c"], powers_x, powers_p) + u["a"] * jnp.maximum(x, 0) + smooth

        return jax.lax.fori_loop(0, u["k"], once, x)

    return step


def unit(coefficients=(), *, k=1, a=0.0, g=0.0, w=0.0, s=1.0):
    c = np.zeros((4, 3))
    for (i, j), value in dict(coefficients).items():
        c[i, j] = value
    return {
        "c": jnp.asarray(c),
        "k": jnp.asarray(k),
        **{n: jnp.asarray(v) for n, v in {"a": a, "g": g, "w": w, "s": s}.items()},
    }


def doya(w, epsilon=1.0):
    return unit({(1, 0): 1 - epsilon}, g=epsilon, w=w)


def pascanu(w):
    return unit({(0, 1): 1.0}, g=w, w=1.0, s=0.0)


def logistic(times):
    return unit({(1, 1): 1.0, (2, 1): -1.0}, k=times)


def planar_family(p):
    """Every map of two units here: c + A x + Q[x, x] + W σ(x), each but W affine in p: its numbers are the input."""

    def step(x, u):
        c, a, q = (u[name][0] + p * u[name][1] for name in "caq")
        return c + a @ x + (q @ x) @ x + u["w"] @ jax.nn.sigmoid(x)

    return step


def pair(*, c=((0, 0), (0, 0)), a=(((0, 0), (0, 0)),) * 2, q=None, w=((0, 0), (0, 0))):
    q = np.zeros((2, 2, 2, 2)) if q is None else q
    return {name: jnp.asarray(value, float) for name, value in zip("caqw", (c, a, q, w), strict=True)}


def quadratic(entries):
    q = np.zeros((2, 2, 2, 2))
    for place, value in entries.items():
        q[place] = value
    return q


HENON = pair(c=((1, 0), (0, 0)), a=(((0, 1), (0.3, 0)), np.zeros((2, 2))), q=quadratic({(1, 0, 0, 0): -1}))


class Circuit(equinox.Module):
    """Fields y' = (w₀ + p w₁) σ(y + θ₀ + p θ₁) - y."""

    w: Float[Array, "2 n n"]
    theta: Float[Array, "2 n"]

    def __call__(self, p):
        return CTRNN(self.w[0] + p * self.w[1], self.theta[0] + p * self.theta[1], 1.0)
