"""Bounds do not depend on what the environment or the caller told JAX."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax import _jax
from hybrid_rs_jax.errors import BadInputError

SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 32_000), 0.5)
SETTINGS = {
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_enable_x64": True,
    "jax_transfer_guard": "disallow",
    "jax_disable_jit": True,
}


@pytest.fixture
def settings():
    """Set JAX's global settings, as an environment would, and put them back."""
    before = {}

    def change(name, value):
        before.setdefault(name, getattr(jax.config, name))
        jax.config.update(name, value)

    yield change
    for name, value in before.items():
        jax.config.update(name, value)


def numbers():
    """Enough lanes for two worker threads, and a function of each core."""
    p = np.linspace(0.5, 1, 4097)
    return (
        hrs.certified_radius(p, 1, SMOOTHING, 0.1),
        hrs.worst_case_probability(0.9, 1, 0.5, SMOOTHING),
        hrs.required_probability(1, 0.25, SMOOTHING, 0.1),
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_host_functions_give_the_same_bits_under_every_setting(settings, name):
    expected = numbers()
    settings(name, SETTINGS[name])
    for found, wanted in zip(numbers(), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert getattr(jax.config, name) == SETTINGS[name]


def test_settings_are_the_callers_again_afterwards():
    with jax.numpy_rank_promotion("raise"):
        with _jax.float64_on_cpu():
            assert jax.numpy.ones(3).dtype == np.float64
            assert (jax.numpy.ones((2, 3)) * jax.numpy.ones(3)).shape == (2, 3)
        assert jax.numpy.ones(3).dtype == np.float32
        with pytest.raises(ValueError, match="rank_promotion"):
            jax.numpy.ones((2, 3)) * jax.numpy.ones(3)


def test_without_the_cpu_one_sentence_says_what_to_unset(monkeypatch):
    def nowhere(backend):
        raise RuntimeError("Unknown backend cpu")

    monkeypatch.setattr(jax, "local_devices", nowhere)
    with pytest.raises(BadInputError, match=r"^JAX cannot use the CPU[^\n]*JAX_PLATFORMS[^\n]*unset it[^\n]*\.$"):
        _jax.cpu_device()


@pytest.mark.parametrize(("platforms", "status"), [("cuda", 2), ("nonsense", 2), ("cpu", 0), ("", 0)])
def test_platforms_of_the_environment_end_in_numbers_or_in_a_sentence(platforms, status):
    code = (
        "import sys, hybrid_rs_jax as hrs\n"
        "from hybrid_rs_jax.errors import BadInputError\n"
        "try: print(hrs.certified_radius(.9, 0, hrs.HybridSmoothing(None, .5), .5))\n"
        "except BadInputError as error: print(error); sys.exit(2)"
    )
    argv = [sys.executable, "-c", code]
    environment = os.environ | {"JAX_PLATFORMS": platforms}
    result = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if platforms == "cuda" and result.returncode == 0:
        pytest.skip("this machine has what the environment names, and JAX keeps the CPU")
    assert result.returncode == status, result.stderr
    assert ("unset it" in result.stdout) == (status == 2)
