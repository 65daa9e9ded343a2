"""All singular values of a product of many random matrices, in logarithm, beside the bare multiplication."""

import jax
import jax.numpy as jnp
import numpy as np

from rnn_dynamics import products
from rnn_dynamics._compile import jit, on_one_blas_thread
from tests.benchmarks._measure import quotients, row, side_by_side

VARIANTS = {"": {}}

FULL = {"num": 102_400, "numpy_num": 5_000, "rounds": 3}
QUICK = {"num": 200, "numpy_num": 50, "rounds": 3}


def rows(*, quick: bool):
    settings, n = QUICK if quick else FULL, 64
    num, numpy_num = settings["num"], settings["numpy_num"]
    factors = np.random.default_rng(0).standard_normal((num, n, n)) / np.sqrt(n)
    matrices = jax.device_put(factors)

    @jit
    def bare(matrices):
        def advance(product, matrix):
            product = matrix @ product
            return product / jnp.abs(product[0, 0]), None

        return jax.lax.scan(advance, jnp.eye(n), matrices)[0]

    product = products.from_matrices(matrices, parallel=True)
    contenders = {
        "one by one": lambda: products.from_matrices(matrices).log_singular_values(),
        "all": lambda: products.from_matrices(matrices, parallel=True).log_singular_values(),
        "largest": lambda: products.log_norm(matrices, parallel=True),
        "largest, one by one": lambda: products.log_norm(matrices),
        "bare": lambda: on_one_blas_thread(bare, matrices),
        "NumPy": lambda: on_one_blas_thread(numpy_exponents, factors[:numpy_num]),
    }
    seconds = side_by_side(contenders, settings["rounds"])
    what = f"product of {num:,} matrices, n = {n}"

    def against_bare(name):
        return quotients(seconds[name], seconds["bare"])

    yield row(what, "all log singular values, in parallel / products alone", against_bare("all"), "≤ 5")
    yield row(what, "all log singular values, one by one / products alone", against_bare("one by one"))
    yield row(what, "the largest, in parallel / products alone", against_bare("largest"), "≤ 0.7")
    yield row(what, "the largest, one by one / products alone", against_bare("largest, one by one"))
    each = [s * num / numpy_num for s in seconds["NumPy"]]
    yield row(what, "NumPy, QR at every step, one thread / all, one by one", quotients(each, seconds["one by one"]))
    # ln |det| of the product is the sum of the factors'.
    exact = np.linalg.slogdet(factors)[1].sum()
    error = abs(float(product.log_singular_values().sum()) - exact) / abs(exact)
    yield row(what, "relative error of the sum of all / 1e-8", [error / 1e-8], "≤ 1")


def numpy_exponents(factors):
    """The loop as one writes it: a product and a QR at every step."""
    q, logs = np.eye(factors.shape[1]), np.zeros(factors.shape[1])
    for factor in factors:
        q, r = np.linalg.qr(factor @ q)
        logs += np.log(np.abs(np.diag(r)))
    return logs
