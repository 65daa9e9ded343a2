"""How long until the first number: imports and a first orbit diagram, each in a process of its own."""

import os
import subprocess
import sys
import tempfile

from tests.benchmarks._measure import quotients, row, side_by_side

VARIANTS = {"": {}}
ROUNDS, QUICK_ROUNDS = 15, 2

JAX = "import jax"
PACKAGE = "import jax, rnn_dynamics"
MODULES = "from rnn_dynamics import bifurcation, fixed_points, models, simulate"
NUMBER = f"""
import jax
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
import jax.numpy as jnp
{MODULES}
family = lambda b: models.DoyaNeuron(w=5.0, b=b)
values, x0 = jnp.array([-2.0]), jnp.array([0.5])
print(bifurcation.orbit_diagram(family, values, x0, num_transient=2000, num_kept=1)[0, 0, 0])
"""


def rows(*, quick: bool):
    with tempfile.TemporaryDirectory() as warm:
        contenders = {
            "jax": lambda: _python(JAX),
            "package": lambda: _python(PACKAGE),
            "modules": lambda: _python(MODULES),
            "warm": lambda: _python(NUMBER, warm),
            "cold": _cold,
        }
        seconds = side_by_side(contenders, QUICK_ROUNDS if quick else ROUNDS)
    for name, what in (("package", "import"), ("modules", "import, with four modules used")):
        more = [ours - jax for ours, jax in zip(seconds[name], seconds["jax"], strict=True)]
        yield row(what, "ours - `import jax`, seconds", more, "≤ 0.3 s")
        yield row(what, "ours / `import jax`", quotients(seconds[name], seconds["jax"]))
    what = "from start to the first number"
    yield row(what, "compiled before / `import jax`", quotients(seconds["warm"], seconds["jax"]))
    yield row(what, "not compiled before / `import jax`", quotients(seconds["cold"], seconds["jax"]))


def _python(program, cache=None):
    environment = {**os.environ, **({"JAX_COMPILATION_CACHE_DIR": cache} if cache else {})}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, stdout=subprocess.DEVNULL)


def _cold():
    with tempfile.TemporaryDirectory() as empty:
        _python(NUMBER, empty)
