"""Lyapunov exponents of random networks x' = W tanh(x), W of standard deviation g/√n: the transition to chaos.

Claims: as n grows the largest exponent tends to ln g up to g = 1, where the origin is the attractor, and is positive
beyond; a network of finite size turns chaotic later, of 100 units on average near g = 1.4. The whole spectrum of one
network of each size keeps its shape; a strong enough random input suppresses the chaos of g = 2 in 100 units.
References: Sompolinsky, Crisanti, Sommers (1988); Molgedey, Schuchhardt, Schuster (1992) for the driven network;
Engelken, Wolf, Abbott (2023) for the spectrum.
"""

from typing import Any

import _figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rnn_dynamics import activations, lyapunov, plotting
from rnn_dynamics.models import PascanuRNN

SIZES, SPECTRUM_SIZES, SPECTRUM_GAIN, DRIVEN_GAIN = (100, 200, 400), (50, 100, 200), 3.0, 2.0
FULL = {"num_gains": 17, "num_seeds": 5, "num_steps": 1500, "num_spectrum_steps": 800}
QUICK = {"num_gains": 3, "num_seeds": 2, "num_steps": 30, "num_spectrum_steps": 20}
KINDS, SHIFT = ("first", "second", "third"), 0.02  # sizes stand side by side in panel a, so far apart


def largest(w, x0, inputs, num_transient):
    """λ₁ along a driven orbit."""
    network = PascanuRNN(w, jnp.eye(len(w)), jnp.zeros(len(w)), activations.tanh)
    return lyapunov.spectrum(network, x0, inputs, num_exponents=1, num_transient=num_transient).exponents[0]


def compute(num_gains: int, num_seeds: int, num_steps: int, num_spectrum_steps: int) -> dict[str, np.ndarray]:
    """λ₁ over gain and size, whole spectra, and λ₁ over the strength of the input."""
    gains, strengths = jnp.linspace(0.4, 2.0, num_gains), jnp.linspace(0.0, 2.0, num_gains)
    arrays: dict[str, Any] = {"gains": gains, "strengths": strengths}

    def draws(n, seed):
        generator = np.random.default_rng(seed)
        w = generator.standard_normal((n, n)) / np.sqrt(n)
        return jnp.asarray(w), jnp.asarray(generator.standard_normal(n)), generator

    for n in SIZES:
        still = jnp.zeros((num_steps, n))
        over = jax.jit(lambda w, x0: jax.lax.map(lambda g: largest(g * w, x0, still, num_steps // 3), gains))  # noqa: B023
        arrays[f"largest_{n}"] = np.stack([over(*draws(n, seed)[:2]) for seed in range(num_seeds)])

    n = SIZES[0]
    over = jax.jit(
        lambda w, x0, z: jax.lax.map(lambda s: largest(DRIVEN_GAIN * w, x0, s * z, num_steps // 3), strengths)
    )
    driven = []
    for seed in range(num_seeds):
        w, x0, generator = draws(n, seed)
        driven.append(over(w, x0, jnp.asarray(generator.standard_normal((num_steps, n)))))
    arrays["driven"] = np.stack(driven)

    for n in SPECTRUM_SIZES:
        w, x0, _ = draws(n, 0)
        network = PascanuRNN(SPECTRUM_GAIN * w, None, jnp.zeros(n), activations.tanh)
        found = lyapunov.spectrum(network, x0, num_steps=num_spectrum_steps, num_transient=num_spectrum_steps // 4)
        arrays |= {f"spectrum_{n}": found.exponents, f"spectrum_error_{n}": found.standard_error}
    return {name: np.asarray(array) for name, array in arrays.items()}


def draw(data: dict[str, np.ndarray]) -> Figure:
    """λ₁ over the gain, the spectrum's shape, and λ₁ over the input's strength."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(plotting.FULL_WIDTH, 2.6))
    gains = data["gains"]
    left.plot(gains[gains <= 1.001], np.log(gains[gains <= 1.001]), color="black", linewidth=0.9, label=r"$\ln g$")
    for number, (n, kind) in enumerate(zip(SIZES, KINDS, strict=True)):
        plotting.draw_scatter(left, gains + (number - 1) * SHIFT, data[f"largest_{n}"], kind=kind, label=f"$n = {n}$")
    left.set(xlabel="gain $g$", title="autonomous")
    left.legend(loc="lower right")
    for n, kind in reversed(list(zip(SPECTRUM_SIZES, KINDS, strict=True))):
        plotting.draw_spectrum(
            middle, data[f"spectrum_{n}"], data[f"spectrum_error_{n}"], kind=kind, label=f"$n = {n}$"
        )
    middle.set(xlabel="index $i/n$", ylabel=r"$\lambda_i$ (nats per step)", title=f"spectra, $g = {SPECTRUM_GAIN:g}$")
    middle.legend(loc="lower left")
    plotting.draw_scatter(right, data["strengths"], data["driven"])
    right.set(xlabel="input's standard deviation", title=f"driven, $g = {DRIVEN_GAIN:g}$, $n = {SIZES[0]}$")
    for ax in (left, right):
        ax.axhline(0, color="black", linewidth=0.5, zorder=0)
        ax.set_ylabel(r"$\lambda_1$ (nats per step)")
    plotting.label_panels((left, middle, right))
    return figure


if __name__ == "__main__":
    _figure.run(__name__)
