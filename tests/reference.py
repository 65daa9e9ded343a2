"""Published and closed-form values, each written once, with where it comes from.

"Closed form" means: the formula beside it, evaluated with mpmath at 50 digits; "computed" means: an independent program
(mpmath, or SciPy's DOP853 at 1e-13), to the digits shown. Nothing here was ever printed by the package itself.

σ is the logistic function throughout, and a fixed point's multiplier is the derivative of the map there.
"""

import math

# One neuron, x' = (1-ε) x + ε σ(wx + b) (Doya 1993; Pascanu, Mikolov, Bengio 2013, fig. 3). Closed forms: fixed points
# lie on b = ln(x/(1-x)) - wx; folds where w x(1-x) = 1; flips where w x(1-x) = 1 - 2/ε.

DOYA_CUSP = (4.0, -2.0, 0.5)
"""(w, b, x)."""

DOYA_FOLDS = {
    4.1: ((-2.04476854473220544, 0.421913119055696967), (-2.05523145526779456, 0.578086880944303033)),
    4.5: ((-2.19314718055994531, 1 / 3), (-2.30685281944005469, 2 / 3)),  # -3/2 - ln 2, -3 + ln 2
    5.0: ((-2.34438966136931205, 0.276393202250021030), (-2.65561033863068795, 0.723606797749978970)),
    5.5: ((-2.47266969879543965, 0.238883516066453243), (-3.02733030120456035, 0.761116483933546757)),
    6.0: ((-2.58490708935593942, 0.211324865405187118), (-3.41509291064406058, 0.788675134594812882)),
    7.0: ((-2.77551138949449108, 0.172673164646011428), (-4.22448861050550892, 0.827326835353988572)),
    8.0: ((-2.93432004929289595, 0.146446609406726238), (-5.06567995070710405, 0.853553390593273762)),
    10.0: ((-3.19045372268814366, 0.112701665379258311), (-6.80954627731185634, 0.887298334620741689)),
}
"""w: ((b, x) where the lower branch ends, (b, x) where the upper one does)."""

DOYA_FOLD_CURVATURE = 1.118033988749895
"""At w = 5, the fold's normal form is 0.2 (b - b*) ± this (x - x*)²: w(1-2x)/2."""

DOYA_EQUILIBRIA = {
    -3.0: (0.0642342388734229439,),
    -2.6: (0.118327929205503996, 0.606652740186358082, 0.809993205625346098),
    -2.5: (0.144794108256064814, 0.5, 0.855205891743935186),
    -2.4: (0.190006794374653902, 0.393347259813641918, 0.881672070794496004),
    -2.0: (0.935765761126577056,),
}
"""b: the fixed points at w = 5, ascending; of three the middle one is unstable."""

DOYA_MULTIPLIERS = {
    -3.0: (0.300541007148874923,),
    -2.6: (0.521632151877206151, 1.193125965053706, 0.769521062330609462),
    -2.5: (0.619143872351978987, 1.25, 0.619143872351978987),
    -2.4: (0.769521062330609462, 1.193125965053706, 0.521632151877206151),
    -2.0: (0.300541007148874923,),
}
"""b: w x(1-x) at those, the multipliers for ε = 1; for another ε it is 1 - ε + ε times this."""

DOYA_BIAS_SENSITIVITY = {
    -3.0: (0.0859352757547126,),
    -2.6: (0.218088299171522348, None, 0.667758251675426798),
    -2.5: (0.325132682609312433, -1.0, 0.325132682609312433),
}
"""b: dx/db = x(1-x) / (1 - w x(1-x)) at those."""

DOYA_FLIPS = {
    (0.5, -16.0): ((2.90138771133189031, 0.25), (13.0986122886681097, 0.75)),
    (0.5, -40.0): ((0.846929226646597234, 0.081669986732962226), (39.1530707733534028, 1 - 0.081669986732962226)),
}
"""(ε, w): the two (b, x) where the multiplier is -1."""

DOYA_DRIVE_LIMIT = 0.03112206772613757
"""Closed form: at w = 5, b = -2.5, a constant drive w'u above this leaves no lower state (the folds' distance / 10)."""

DOYA_PULSE_STEPS = {0.05: 132, 0.1: 46, 0.2: 20, 0.5: 8, 1.0: 4}
"""Computed: w'u, and the fewest steps of it that switch the neuron from low to high (w = 5, b = -2.5, ε = 0.1)."""

DOYA_ORBITS = {
    (-2.5, 0.4): {
        1: 0.39775406687981454,
        10: 0.37581048302183295,
        50: 0.2571288212142218,
        100: 0.1677174998389339,
        500: 0.14479411268181635,
    },
    (-2.3, 0.2): {10: 0.21325703868276461, 100: 0.30021587674641531, 500: 0.90045244747175756},
    (-3.0, 0.5): {10: 0.37160030100418317, 100: 0.064953820532054751},
}
"""Computed: (b, x_0): {t: x_t} at w = 5, ε = 0.1. The second passes the ghost of a fold."""

DOYA_FLOWS = {
    (-2.5, 0.4, 10.0): 0.168133130888,
    (-2.5, 0.51, 20.0): 0.836200006798,
    (-2.3, 0.2, 50.0): 0.900452424165,
    (-2.4, 0.2, 50.0): 0.190006898607,
}
"""Computed (DOP853): (b, x(0), t): x(t) of dx/dt = -x + σ(5x + b), to 12 digits."""

DOYA_UNSTABLE_POINT = {"w": 5.0, "b": -2.5, "x": 0.5, "growth_per_epsilon": 0.25}
"""Closed form: from x_0 = 1/2 nothing moves, dx_T/dx_0 = (1 + ε/4)^T, dx_T/db = that - 1, dx_T/dw = half of the latter;
for the ODE e^{T/4} in place of the power."""

DOYA_SETTLED_LOSS = {
    -2.0: 0.0065231081703553,
    -2.4: 0.00071139936046661,
    -2.49: 1.14254945288e-5,
    -2.499: 2.8114479480594e-7,
    -2.5: 0.126025,
    -2.501: 0.504853209006045,
    -2.51: 0.508911255404829,
    -2.6: 0.542685739888651,
    -3.0: 0.625310488970095,
}
"""Computed: b: (0.855 - x_1000)² at w = 5, ε = 0.1, x_0 = 0.5 (Wikipedia, "Vanishing gradient problem", geometric
model, whose limits 0 and 0.50 on the two sides of b = -2.5 are these)."""

DOYA_CHAOS = {
    (0.5, -40.0, 8.0): 0.326,
    (0.5, -40.0, 34.54): 0.372,
    (0.5, -40.0, 20.0): -0.746,
    (0.5, -100.0, 91.275): 0.484,
    (0.3, -60.0, 45.165): 0.376,
}
"""Computed, to the digits shown: (ε, w, b): Lyapunov exponent; the negative one is a periodic window."""

# Pascanu's one unit, x' = w σ(x) + b (Pascanu, Mikolov, Bengio 2013, eq. 8), with S = σ(x). Its folds are Doya's.

PASCANU_FLIPS = {
    -4.5: ((0.806852819440054691, 1 / 3), (3.69314718055994531, 2 / 3)),  # 3/2 - ln 2, 3 + ln 2
    -5.0: ((0.419542361130898257, 0.27639320225002103), (4.58045763886910174, 0.72360679774997897)),
    -6.0: ((-0.0490087044936940022, None), (6.049008704493694, None)),
    -8.0: ((-0.591174298785276148, None), (8.59117429878527615, None)),
    -10.0: ((-0.936420415102977432, None), (10.9364204151029774, None)),
}
"""Closed form: w: the two (b, S) where w S(1-S) = -1; S = (1 ∓ √(1 + 4/w))/2."""

PASCANU_TWO_CYCLES = {
    -4.5: (0.775594581163076044, 0.224405418836923956, 0.613424672229402),
    -5.0: (0.855205891743935186, 0.144794108256064814, 0.383339134671004),
    -6.0: (0.929279818320055181, 0.0707201816799448, 0.155482762077862),
    -8.0: (0.97875201203863437, 0.0212479879613656, 0.0276796715828508),
}
"""Computed: w: the stable 2-cycle on b = -w/2 as a pair of S, and the multiplier of two steps."""

# The error surface E = (σ(x_50) - 0.7)², x_0 = 0.5 (Pascanu, Mikolov, Bengio 2013, fig. 6). Computed with 50 digits.

ERROR_SURFACE = {
    (0.0, 0.0): (0.04, -0.05, -0.1),
    (1.0, 0.0): (0.0016772245128908148, -0.01564535773, -0.02373939923),
    (3.0, -1.5): (0.039999972947645081, -0.2000002579, -0.3999996161),
    (4.0, -2.0): (0.016736632938222792, -1.044529405, -1.787904154),
    (4.0, -3.0): (0.41038460627359065, -0.005473307268, -0.09216289443),
    (4.5, -2.25): (0.0057140956244756888, 0.09417774032, 0.1214344076),
    (5.0, -2.0): (0.055585494119594193, 0.0379183435, 0.04052119139),
    (5.0, -2.4): (0.033004741306756825, 0.06986466989, 0.07924110585),
    (5.0, -2.5): (0.024088868813358221, 0.08631166948, 0.1009250176),
    (5.0, -2.6): (0.012095211367765869, 0.1194586804, 0.1476018082),
    (5.0, -2.61): (0.01049209517245972, 0.1671916957, 0.2218531622),
    (5.0, -2.62): (0.34327190723576203, -0.02732878603, -0.2395027564),
    (5.0, -2.7): (0.36054320523119493, -0.01941957854, -0.1950785164),
    (5.0, -3.0): (0.40419810302085584, -0.007018837512, -0.109269412),
    (6.0, -3.0): (0.052569235088877511, 0.0462363954, 0.04975508398),
    (6.0, -3.23): (0.037783330554870564, None, None),
    (6.0, -3.24): (0.42211521749039537, None, None),
    (6.0, -3.5): (0.44068753737774986, None, None),
    (7.0, -3.5): (0.06871007684624804, None, None),
    (7.0, -4.0): (0.46139694631221714, None, None),
    (-3.0, 1.0): (0.073522711257693101, None, None),
    (-6.0, 3.0): (0.052569235088877511, None, None),
    (-10.0, 2.0): (0.032263180425202306, None, None),
}
"""(w, b): (E, dE/dw, dE/db), the derivatives to 10 digits."""

ERROR_SURFACE_GRID = {
    "w": (4.0, 7.0, 61),
    "b": (-4.0, -2.0, 81),
    "minimum": (1.33681931788e-05, (4.1, -2.025)),
    "maximum": (0.463202578886, (4.0, -4.0)),
    "mean": 0.253404352103,
    "steepest": (26.043591, (4.9, -2.55)),
}
"""Over numpy.linspace grids: values with (w, b) where they occur; "steepest" is the largest ‖gradient‖."""

HALF = 0.5
SIGMOID_HALF = 0.62245933120185456464
"""σ(1/2)."""
SIGMOID_SLOPE_HALF = 0.23500371220159448907
"""σ'(1/2)."""

WALL_ERROR = 0.0060125553176636850751
"""Closed form: E on the wall b = 1/2 - σ(1/2) w, where x_0 = 1/2 is an unstable fixed point."""
WALL_BEGINS = (4.25525193041276157, -2.14872127070012815)
"""Closed form: (w, b) where the wall touches the fold curve, (2 + 2 cosh(1/2), -1/2 - √e)."""
WALL_NORMAL = (0.528446993887059597, 0.848966297712535817)
"""Closed form: the unit vector of (w, b) across the wall, along (σ(1/2), 1)."""
WALL = {
    4.5: (-2.3010669904083455409, 1.0575167049071752, -6.0667851784468844, -9.7464763950650997, 11.480404370969865),
    5.0: (-2.6122966560092728232, 1.1750185610079724, -411.87063397907085, -661.68280132265727, 779.39819649555316),
    5.5: (-2.9235263216102001055, 1.2925204171087697, -28937.332806020175, -46488.712363179622, 54759.196552842348),
    6.0: (-3.2347559872111273878, 1.4100222732095669, -1600429.0557810177, -2571138.3468071454, 3028551.7266525762),
    7.0: (-3.8572153184129819525, 1.6450259854111614, -2263633758.4285557, -3636597035.2760154, 4283558776.2134995),
}
"""Closed form: w: (b, μ, dE/dw, dE/db, ‖gradient‖) on the wall, with μ = w σ'(1/2),
dE/db = 2 (σ(1/2) - 0.7) σ'(1/2) (μ⁵⁰ - 1)/(μ - 1) and dE/dw = σ(1/2) dE/db."""
WALL_SIDES = (0.010224339076, 0.341406714871)
"""Closed form: the limits T → ∞ of E just above and just below the wall at w = 5."""

CONTRIBUTIONS = {
    (5.0, -2.5): {
        1: 7.37731772765e-11,
        10: 2.16184915475e-10,
        25: 2.39669278215e-7,
        40: 3.1818200323e-4,
        49: 0.023798596907,
        50: 0.0384379107288,
        "sum": 0.100925017636868,
        "product": 2.25519157937493e-9,
    },
    (3.0, -1.5): {1: -7.00204792422e-8, 25: -7.52543148119e-5, 50: -0.0999999661845, "sum": -0.399999616141631},
    (5.0, -2.61): {
        1: 0.00873929421266,
        10: 0.0021355375426,
        25: 0.000476281853407,
        40: 0.00337361395992,
        50: 0.0324778838463,
    },
}
"""(w, b): the temporal contributions of step k to dE/db (eq. 4), their sum, and the product of the 50 Jacobians."""

OMEGA = {
    (5.0, -2.5): (6.05733886048397, 16.1564543511003),
    (5.0, -2.6): (1.68103271344577, 5.68233409580926),
    (3.0, -1.5): (3.17840625903591, 9.7065408796588),
}
"""(w, b): the regulariser Ω over the 50 steps as in eq. 9, and with the squared ratio of eq. 10."""

# Linear maps, closed forms.

NOTE_3_NORMS = {(1.0, 0.8): 478.9048565, (1.0, 0.7): 0.6034647298, (2.0, 0.5): 1.0}
"""(ε, c): norm of (W D)^50, W = [[0, 2], [ε, 0]], D = c I: (2εc²)^25 (Wikipedia, "Vanishing gradient
problem", note 3)."""

NON_NORMAL = {"epsilon": 0.1, "radius": 0.447213595499958, "norms": (2.0, 0.2, 0.4, 0.04, 0.08)}
"""The same W: ρ(W) = √(2ε), and ‖W^k‖₂ for k = 1 ... 5, which ρ^k does not bound."""

LINEAR_UNIT = {
    1.1: (58.6954264398476583, 2667.97392908398, 118846.111386468),
    0.9: (0.00257688760366, 0.143160422425559, 7.79428966539153),
}
"""w: (x_50, dx_50/dw, d²x_50/dw²) for x' = wx, x_0 = 1/2 (Pascanu, Mikolov, Bengio 2013, eq. 8 without σ)."""

# Bengio, Simard, Frasconi (1994), one tanh unit a' = w tanh(a) + h; Doya's neuron with W = 4w, B = 2h - 2w.

LATCH_THRESHOLDS = {
    1.1: 0.020481227178151,
    1.25: 0.077805169315344,
    1.5: 0.20754645532203,
    2.0: 0.53283997535355,
    2.5: 0.90477313865593,
    3.0: 1.3032739080026,
    5.0: 3.0285004798208,
}
"""Closed form: w: the input h* = w r - artanh r, r = √(1 - 1/w), that switches the unit from one state to the other."""

LATCH_STATES = {
    1.25: (0.888014729359838, 0.710411783487870, 0.619143872351979),
    2.0: (1.91500804815454, 0.957504024077269, None),
}
"""Computed: w: the upper state a, tanh a, and its multiplier, at h = 0."""

GRADIENT_LIMIT_WEIGHT = 4.0
"""1/sup σ' = 1/γ: below it a single logistic unit's gradient vanishes (Hochreiter 1991; Pascanu et al. 2013, eq. 6)."""

# Beer (1995, 2006), continuous time: dy/dt = (-y + W σ(y + θ))/τ.

OSCILLATOR = {
    "w": ((4.5, 1.0), (-1.0, 4.5)),
    "theta": (-2.75, -1.75),
    "tau": (1.0, 1.0),
    "equilibrium": (2.75, 1.75),
    "eigenvalue": 0.125 + 0.25j,
    "period": 28.9999079,
    "y1": (1.2938468530613, 4.2061531410609),
    "y2": (0.2938468530613, 3.2061531410609),
    "output": (0.1890563965, 0.8109436035),
    "crossing": (2.75, 3.18611109),
}
"""Beer's two-neuron oscillator; rows of w receive. The cycle (DOP853): its period, the ranges of the states and
outputs, and the second state where the first rises through 2.75."""

CENTRE_CROSSING_PERIODS = {0.75: 39.4180818, 1.0: 28.9999079, 2.0: 14.2387113}
"""Computed: c: the period with ±c as the off-diagonal weights and centre-crossing θ_i = -Σ_j w_ij / 2."""


def beer_folds(w):
    """Beer (2006): the two inputs plus bias at which one self-connected neuron, w ≥ 4, has a fold; equal to Doya's."""
    shift = 2 * math.log((math.sqrt(w) + math.sqrt(w - 4)) / 2)
    half_width = math.sqrt(w * (w - 4)) / 2
    return shift - w / 2 - half_width, -shift - w / 2 + half_width


# Pasemann's modules of two neurons (Lynch, Dynamical Systems with Applications, chapter 20).

CHAOTIC_MODULE = {
    "start": (0.0, 2.0),
    "exponents": ((0.2305, 0.0003), (-3.3595, 0.0005)),
    "kaplan_yorke": 1.0686,
    "x": (-13.67016, 1.87943),
    "y": (-2.20527, 2.99999),
    "mean": (-3.3844, 1.2984),
    "fixed_point": (-1.28037602, 1.69508266),
    "multipliers": (-3.14872644, -0.25499288),
    "flips": (-7.15660484331351, 21.1566048433135),
}
"""Computed (2e6 steps): exponents with their uncertainty, ranges and mean of the orbit; the fixed point; the flips
in b₁."""

BISTABLE_MODULE = {
    "folds": ((1.14473047276181, -1.48011111649246), (-0.227671731131306, 1.56331800461038)),
    "largest_determinant": 0.0576,
}
"""Computed: the two folds (b₁, x₁); det J stays below this, so there is no Neimark-Sacker point."""

# Piecewise-linear networks z' = A z + W max(0, z) + h (Eisenmann et al. 2023, public tests of SCYFI), simulated anew.

PIECEWISE_LINEAR = {
    1: {"a1": -0.0222311, "point": (0.36487105, -22.26064871), "multipliers": (0.96461297, 0.0222311)},
    16: {"a1": 0.8377689, "point": (2.15999201, 0.1355862), "multipliers": (0.51889964,)},
}
"""Period: a1, the cycle's point of largest z₁, |multipliers|. A = diag(a1, 0.96461297),
W = [[0, -0.64375], [0.52505308, 0]], h = (0.37298253, -0.97931491)."""

# Hénon's map, a = 1.4, b = 0.3. Closed form: the states x of its 2-cycle solve a² x² - a (1-b) x + (1-b)² - a = 0.

HENON_TWO_CYCLE = (0.9758000512, -0.1427400154)
"""The state with the larger x."""
