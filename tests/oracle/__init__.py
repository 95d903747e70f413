"""Reference certificate in ball arithmetic, written from the mathematics alone.

Nothing here comes from the package under test. Discrete channels are exact rationals; Gaussian sums are balls
(`flint.arb`) of at least 256 bits whose precision is raised until a question is decided. Float parameters
mean exactly the float that was passed, but for a noise probability, which means the multiple of 2^-32 that is drawn.

With atoms (l_i, p_i, q_i), singular masses p_0 and q_inf, and c the log of the Neyman-Pearson threshold:

    F(c) = p_0 + sum_i p_i Phi((c - l_i) / rho + rho / 2)      clean mass accepted
    V(c) =       sum_i q_i Phi((c - l_i) / rho - rho / 2)      adversarial mass accepted
    V*   = sup_c  e^c (p_a - F(c)) + V(c)                      worst-case score

Any c gives a lower bound of V*, any c with F(c) >= p_a gives the upper bound V(c), and so does rho = 0.

`balls` holds the numbers, `channels` the kernels, `threshold` the Gaussian sums, `certificate` the questions that a
test asks, `binomial` the bound on a clean score.
"""

from oracle.balls import Undecided, exact, precision, quotient
from oracle.binomial import clopper_pearson_is_sound
from oracle.certificate import (
    certified_radius,
    inverse_knapsack,
    knapsack,
    lower_bound_is_sound,
    radius_is_sound,
    required_probability,
    upper_bound_is_sound,
    worst_case_probability,
)
from oracle.channels import (
    Channel,
    absorbing,
    categorical,
    categorical_attacks,
    drawn,
    edited,
    forced_uniform,
    gaussian,
    uniform,
)
from oracle.threshold import adversarial_mass, clean_mass

__all__ = [
    "Channel",
    "Undecided",
    "absorbing",
    "adversarial_mass",
    "categorical",
    "categorical_attacks",
    "certified_radius",
    "clean_mass",
    "clopper_pearson_is_sound",
    "drawn",
    "edited",
    "exact",
    "forced_uniform",
    "gaussian",
    "inverse_knapsack",
    "knapsack",
    "lower_bound_is_sound",
    "precision",
    "quotient",
    "radius_is_sound",
    "required_probability",
    "uniform",
    "upper_bound_is_sound",
    "worst_case_probability",
]
