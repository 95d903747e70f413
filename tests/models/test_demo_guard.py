"""The network of the demo guard, its weights file, and the script that trains it."""

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hybrid_rs_jax.models import DemoGuardConfig, DemoGuardNetwork, load_weights, save_weights

SCRIPT = Path(__file__).parents[2] / "experiments" / "train_demo_guard.py"
WEIGHTS = resources.files("hybrid_rs_jax.models").joinpath("weights", "demo_guard.npz")
SMALL = DemoGuardConfig(vocab_size=20, length=4, width=8, patch_features=4, hidden=8, slots=3)


def small_inputs(batch=5):
    keys = jax.random.split(jax.random.key(0))
    tokens = jax.random.randint(keys[0], (batch, SMALL.length), 0, SMALL.vocab_size, jnp.int32)
    return tokens, jax.random.uniform(keys[1], (batch, 8, 8, 1), jnp.float32)


def parameters(network):
    return jax.tree.leaves(nnx.state(network, nnx.Param))


def test_one_float32_logit_per_input_also_under_x64():
    tokens, images = small_inputs()
    network = DemoGuardNetwork(SMALL, nnx.Rngs(0))
    logits_of = jax.jit(lambda network, tokens, images: network(tokens, images))
    expected = logits_of(network, tokens, images)
    assert expected.shape == (5,)
    with jax.enable_x64(True):
        logits = logits_of(network, tokens, images)
        assert logits.dtype == jnp.float32
        drawn = jax.eval_shape(lambda: nnx.state(DemoGuardNetwork(SMALL, nnx.Rngs(0)), nnx.Param))
        assert {leaf.dtype for leaf in jax.tree.leaves(drawn)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_both_modalities_reach_the_logit():
    network = DemoGuardNetwork(SMALL, nnx.Rngs(0))
    tokens, images = small_inputs()
    base = network(tokens, images)
    assert (network((tokens + 1) % SMALL.vocab_size, images) != base).all()
    assert (network(tokens, 1 - images) != base).any()


def test_patches_cover_every_pixel():
    network = DemoGuardNetwork(DemoGuardConfig(), nnx.Rngs(0))
    _, images = small_inputs(1)
    sensitivity = jax.grad(lambda x: jnp.abs(network.image(x)).sum())(images)
    assert (sensitivity != 0).all()


def test_patches_that_miss_the_border_are_refused():
    with pytest.raises(ValueError, match="stride must divide image_size - patch"):
        DemoGuardConfig(image_size=8, patch=3, stride=2)


def test_weights_survive_the_file_up_to_float16(tmp_path):
    network = DemoGuardNetwork(SMALL, nnx.Rngs(3))
    save_weights(network, tmp_path / "small.npz", {"training": {"seed": 3}})
    loaded, metadata = load_weights(tmp_path / "small.npz")
    assert metadata["training"] == {"seed": 3}
    assert loaded.config == SMALL
    for before, after in zip(parameters(network), parameters(loaded), strict=True):
        assert after.dtype == jnp.float32
        np.testing.assert_array_equal(after, np.asarray(before, np.float16).astype(np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["small.npz"]


def test_all_faults_of_a_weights_file_are_named_at_once(tmp_path):
    save_weights(DemoGuardNetwork(SMALL, nnx.Rngs(0)), tmp_path / "good.npz", {})
    arrays = dict(np.load(tmp_path / "good.npz"))
    del arrays["embedding"]
    arrays["position"] = arrays["position"][:, :-1]
    arrays["extra"] = np.zeros(1)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError) as error:
        load_weights(tmp_path / "bad.npz")
    for fault in ("embedding is missing", "extra is not a parameter", "position has shape (1, 3, 8)"):
        assert fault in str(error.value)


def test_file_that_is_no_demo_guard_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    with pytest.raises(ValueError, match="holds no demo guard"):
        load_weights(tmp_path / "other.npz")


def test_packaged_weights_are_small_and_say_how_they_were_made():
    with resources.as_file(WEIGHTS) as path:
        assert path.stat().st_size <= 2**20
        network, metadata = load_weights(path)
    assert network.config == DemoGuardConfig()
    assert {"seed", "steps"} <= metadata["training"].keys()
    assert metadata["results"]["clean_accuracy"] >= 0.97


def run_script(*arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment | {"JAX_PLATFORMS": "cpu"},
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_short_training_run_lowers_the_loss_and_writes_weights(tmp_path):
    pytest.importorskip("optax")
    pytest.importorskip("sklearn")
    out = tmp_path / "weights.npz"
    done = run_script("--steps", 40, "--draws", 2, "--seed", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    losses = report["losses"]
    assert np.mean(losses[-4:]) < 0.95 * np.mean(losses[:4])
    _, metadata = load_weights(out)
    assert metadata["training"] == report["training"]
    assert metadata["results"] == report["results"]

    before = out.read_bytes()
    refused = run_script("--steps", 1, "--out", out)
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--draws", "-1"], "--draws must be at least 1, but it is -1"),
        (["--out", "no/such/folder/weights.npz"], "does not exist"),
    ],
)
def test_bad_arguments_of_the_script_exit_2_with_one_sentence(arguments, message):
    pytest.importorskip("optax")
    done = run_script(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
