"""Training of denoisers: it learns, goes on where it was killed, uses every device, and refuses what it cannot do."""

import jax
import numpy as np
import pytest

from hybrid_rs_jax.models.denoiser import Diffusion, UNetConfig
from hybrid_rs_jax.models.denoiser.training import TrainingPlan, train
from hybrid_rs_jax.sampling import data_mesh

CONFIG = UNetConfig(
    in_channels=4,
    out_channels=4,
    patch_size=2,
    block_out_channels=(8,),
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    mid_block_type=None,
    layers_per_block=1,
    norm_num_groups=2,
)
RULE = Diffusion(prediction="v_prediction", fractional=True)


def stripes(count, seed=0):
    """Pictures that are easy to know: horizontal stripes of two greys, with a phase."""
    random = np.random.default_rng(seed)
    rows = (np.arange(8)[None] + random.integers(0, 4, (count, 1))) // 2 % 2
    return np.broadcast_to(rows[:, :, None, None] * 0.6 + 0.2, (count, 8, 8, 1)).astype(np.float32)


def plan(**changes):
    return TrainingPlan(**{"steps": 6, "batch_size": 4, "warmup": 2, "checkpoint_every": 2} | changes)


def weights(denoiser):
    return jax.tree.leaves(denoiser.functional()[1])


def assert_same(first, second, atol=0.0):
    for a, b in zip(weights(first), weights(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def test_it_learns_to_take_noise_away():
    denoiser, losses = train(CONFIG, RULE, stripes(64), plan(steps=150, batch_size=16, average=0.9, learning_rate=1e-2))
    clean = stripes(32, seed=1)
    noisy = clean + 0.5 * np.random.default_rng(2).standard_normal(clean.shape).astype(np.float32)
    left = np.sqrt(np.mean((np.asarray(denoiser(noisy, 0.5)) - clean) ** 2))
    assert left < 0.2  # of 0.5; the grey mean of all pictures would leave 0.3
    assert losses[-1] < losses[0] / 2


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path):
    whole, losses = train(CONFIG, RULE, stripes(16), plan())
    for until in (1, 3, 4, None):
        parts, resumed = train(CONFIG, RULE, stripes(16), plan(), checkpoint=tmp_path / "state", until=until)
    assert_same(whole, parts, atol=1e-4)  # a step moves weights by 2e-3
    assert resumed[-1] == pytest.approx(losses[-1], rel=0.5)


@pytest.mark.slow
def test_two_devices_learn_what_one_learns():
    one, _ = train(CONFIG, RULE, stripes(16), plan())
    two, _ = train(CONFIG, RULE, stripes(16), plan(), mesh=data_mesh(2))
    assert_same(one, two, atol=1e-4)


@pytest.mark.slow
def test_without_an_average_the_last_weights_are_used():
    mean, _ = train(CONFIG, RULE, stripes(16), plan(average=0.99))
    last, _ = train(CONFIG, RULE, stripes(16), plan(average=None))
    assert any(not np.array_equal(a, b) for a, b in zip(weights(mean), weights(last), strict=True))


def test_progress_is_told():
    seen = []
    train(CONFIG, RULE, stripes(16), plan(), progress=lambda step, loss: seen.append((step, loss)))
    assert [step for step, _ in seen] == [6]


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    train(CONFIG, RULE, stripes(16), plan(), checkpoint=tmp_path / "state", until=1)
    with pytest.raises(ValueError, match="is the checkpoint of other settings"):
        train(CONFIG, RULE, stripes(16), plan(seed=1), checkpoint=tmp_path / "state")
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:100])
    with pytest.raises(ValueError, match="is no whole checkpoint"):
        train(CONFIG, RULE, stripes(16), plan(), checkpoint=tmp_path / "state")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 0}, "steps must be an integer in 1"),
        ({"batch_size": 0}, "batch_size must be an integer in 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"average": 1.0}, r"average must lie in \(0, 1\)"),
        ({"sigma_min": 2.0}, "sigma_min and sigma_max must be positive and in this order"),
        ({"seed": -1}, "seed must be an integer in 0"),
    ],
)
def test_plans_that_make_no_sense_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        plan(**changes)


@pytest.mark.parametrize(
    ("images", "changes", "sentence"),
    [
        (stripes(4)[..., 0], {}, r"images must have shape \[pictures"),
        (stripes(0), {}, r"images must have shape \[pictures"),
        (255 * stripes(4), {}, r"images must lie in \[0, 1\], got"),
        (np.full((4, 8, 8, 1), np.nan, np.float32), {}, r"images must lie in \[0, 1\], got"),
        (stripes(4)[:, :7], {}, "sides that are multiples of 2"),
        (stripes(4).repeat(3, axis=3), {}, "must have 1 channels.*got 3"),
        (stripes(4), {"sigma_max": 100.0}, "sigma_max must be at most 78.7"),
        (stripes(4), {"batch_size": 3}, "batch_size must be a multiple of the 2 devices"),
    ],
)
def test_pictures_and_settings_that_do_not_fit_are_refused(images, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        train(CONFIG, RULE, images, plan(**changes), mesh=data_mesh(2))
