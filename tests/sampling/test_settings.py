"""Draws depend on nothing but key, index and draw: not on JAX's settings, nor on the device; programs on no number."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.sampling import _backends, _drawing

SCRIPT = """
import json, jax, numpy as np, hybrid_rs_jax as hrs
from hybrid_rs_jax.classifiers import DemoGuard
from hybrid_rs_jax.data import demo

def by_levels(tokens, images):
    return (images[:, 3, 3, 0] > images[:, 4, 4, 0]) ^ (tokens[:, -1] % 3 == 0)

inputs = demo.held_out_unsafe(3)
smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.3, demo.VOCAB_SIZE), 0.25)
found = {}
for name, guard in (("rule", by_levels), ("guard", DemoGuard.load())):
    for batch in (300, 1000):
        found[f"{name} {batch}"] = hrs.sample_counts(
            guard, inputs.tokens, inputs.images, smoothing, 500, jax.random.key(1), batch_size=batch
        ).tolist()
certificate = hrs.certify(found["rule 300"], 500, smoothing, tau=0.1, alpha=0.01, budgets=[0, 1, 2])
found["radius"] = certificate.radius.tolist()
print(json.dumps(found))
"""
FLAGS = {
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_ENABLE_X64": "1",
    "JAX_DEBUG_NANS": "1",
    "JAX_NUM_CPU_DEVICES": "2",
}


def run(**flags):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_NU")}
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment | flags,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("flag", FLAGS)
def test_a_setting_of_the_environment_changes_no_draw_and_no_radius(flag, plain):
    found = run(**{flag: FLAGS[flag]})
    for name, value in plain.items():
        if name.startswith("guard"):  # a network's sums may be rounded otherwise
            assert np.all(np.abs(np.subtract(found[name], value)) <= 2)
        else:
            assert found[name] == value


@pytest.fixture(scope="module")
def plain():
    return run()


def test_all_settings_at_once_change_no_draw_and_no_radius(plain):
    found = run(**FLAGS)
    assert {name: value for name, value in found.items() if "guard" not in name} == {
        name: value for name, value in plain.items() if "guard" not in name
    }
    assert plain["rule 300"] == plain["rule 1000"]


# The same integers


TOKENS = np.arange(12, dtype=np.int32).reshape(2, 6)
LEVELS = np.arange(2 * 25, dtype=np.int32).reshape(2, 5, 5, 1) * 5


def seen(dtype, devices, batch_size=64):
    """All noisy levels that the classifier gets, by copy; a host classifier sees them as NumPy arrays."""
    found = {}

    class Watching:
        on_host = True

        def __call__(self, tokens, images):
            assert images.dtype == dtype
            for row, image in zip(tokens, images, strict=True):
                levels = np.rint(image.astype(np.float64) * 255).astype(int)
                found[(*row.tolist(), *levels.ravel().tolist())] = True
            return np.zeros(len(tokens), bool)

    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.5, 12), 0.02)
    images = (LEVELS / 255).astype(dtype)
    mesh = hrs.data_mesh(devices)
    hrs.sample_counts(Watching(), TOKENS, images, smoothing, 50, jax.random.key(2), batch_size=batch_size, mesh=mesh)
    return sorted(found)


def test_noise_is_the_same_in_every_dtype_and_on_any_number_of_devices():
    wanted = seen(np.float32, 1)
    assert len(wanted) == 100
    assert seen(np.float32, 2, 30) == wanted
    # a bfloat16 above 1/2 holds 8 bits: the level can be read back from it up to 1
    assert seen(ml_dtypes.bfloat16, 1) == wanted
    with jax.enable_x64(True):
        assert seen(np.float64, 2) == wanted
        assert seen(np.float32, 1) == wanted


def test_keys_of_another_generator_give_the_draws_of_the_same_seed():
    def rule(tokens, images):
        return images[:, 0, 0, 0] > images[:, 1, 1, 0]

    images = (LEVELS / 255).astype(np.float32)
    counts = [
        hrs.sample_counts(rule, TOKENS, images, hrs.HybridSmoothing(None, 0.5), 200, jax.random.key(5, impl=name))
        for name in ("threefry2x32", "rbg", "unsafe_rbg")
    ]
    np.testing.assert_array_equal(counts[1], counts[0])
    np.testing.assert_array_equal(counts[2], counts[0])


# One program


def test_a_sweep_over_sigma_beta_and_alphabet_compiles_once():
    def rule(tokens, images):
        return (tokens[:, 0] > 3) | (images[:, 0, 0, 0] > 0.7)

    images, before = (LEVELS / 255).astype(np.float32), None
    for sigma, beta, size in [(0.25, 0.25, 12), (0.5, 0.1, 12), (0.1, 0.9, 500), (0.7, 0.5, 2**31 - 1)]:
        smoothing = hrs.HybridSmoothing(hrs.UniformKernel(beta, size), sigma)
        hrs.sample_counts(rule, TOKENS, images, smoothing, 100, jax.random.key(0))
        compiled = _backends._step._cache_size(), _drawing._noisy._cache_size()
        assert before is None or compiled == before
        before = compiled


# One sampler


ROOT = Path(__file__).parents[2]
#: Weights are drawn, networks trained, costs and roundings compared, attackers guess, with normals: no certificate
#: rests on them.
TRAINING = {
    "experiments/_fashion_model.py",
    "experiments/_fashion_vit.py",
    "experiments/bench/engine.py",
    "hybrid_rs_jax/attacks/targeted.py",
    "hybrid_rs_jax/classifiers/vlm/_ties.py",
    "hybrid_rs_jax/models",
    "experiments/make_random_checkpoint.py",
    "experiments/train_demo_guard.py",
    "experiments/train_denoiser.py",
    "experiments/train_tiny_guard.py",
}
NORMALS = {"normal", "standard_normal", "randn", "multivariate_normal", "truncated_normal", "erf_inv"}


def sources():
    """(path, Python source) of all code that may draw."""
    for folder in ("hybrid_rs_jax", "experiments"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        for part in code:
            yield path.relative_to(ROOT).as_posix(), "\n".join(x for x in part.splitlines() if x[:1] not in "%!")


def calls_of_normals(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in NORMALS:
                yield name, node.lineno


def test_pixel_noise_is_drawn_in_one_place():
    found = [
        f"{path}:{line} {name}"
        for path, source in sources()
        if not any(path.startswith(prefix) for prefix in TRAINING)
        for name, line in calls_of_normals(source)
    ]
    assert not found
    assert list(calls_of_normals("jax.random.normal(key, (3,))\nrng.standard_normal(2)")), (
        "the search finds what it seeks"
    )
