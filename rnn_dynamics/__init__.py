"""A microscope for recurrent networks: run a map, linearise it along the way, see why its gradients vanish or explode.

Everything is reached through its module, loaded on first use: `rnn_dynamics.simulate.trajectory` is the one path to
that function. Start with `models` (the systems), then `simulate`, `jacobians`, `fixed_points`, `bifurcation`.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "activations",
        "basins",
        "bifurcation",
        "bounds",
        "continuation",
        "covariant",
        "diagnosis",
        "files",
        "fixed_points",
        "flows",
        "gradients",
        "jacobians",
        "lyapunov",
        "models",
        "plotting",
        "products",
        "sensitivity",
        "simulate",
        "stability",
        "sweeps",
        "training",
    ],
)
