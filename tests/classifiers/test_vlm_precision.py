"""A shared prefix costs bfloat16 nothing, whatever constant lies on the attention's logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy import stats
from vlm_checkpoint import POLICY, SIDE, make_checkpoint, picture

from hybrid_rs_jax.classifiers import VlmGuard
from hybrid_rs_jax.confidence import FixedSample
from hybrid_rs_jax.data.inputs import ArrayInputs
from hybrid_rs_jax.kernels import HybridSmoothing, UniformKernel, run_key
from hybrid_rs_jax.sampling.design import StreamGroup
from hybrid_rs_jax.sampling.ledger import Ledger
from hybrid_rs_jax.sampling.run import sample_run

HEAD, ROWS = 8, 48
#: The slowest pair of features that the rotation turns, which at this base does not turn at all.
PAIR = (3, 7)
WAYS = {"policy first": {"template": "policy_first"}, "shared picture": {"share_image": True}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    make_checkpoint(folder, num_hidden_layers=3, rope_parameters={"rope_type": "default", "rope_theta": 1e12})
    (folder / "policy.txt").write_text(POLICY)
    return folder, load_file(folder / "model.safetensors")


def with_offset(weights, offset):
    """Biases on one feature of queries and keys: all logits grow by `offset`, which no softmax sees."""
    changed = {}
    for name, value in weights.items():
        if "language_model" in name and (".q_proj." in name or ".k_proj." in name):
            heads = 4 * value.reshape(-1, HEAD, *value.shape[1:])
            heads[:, PAIR] = 0
            if name.endswith("bias"):
                heads[:, PAIR[0]] = np.sqrt(offset * np.sqrt(HEAD))
            value = heads.reshape(value.shape)
        changed[name] = value
    return changed


@pytest.fixture(autouse=True)
def _standard_promotion(_strict_promotion):
    with jax.numpy_dtype_promotion("standard"):  # the layer norm of flax mixes dtypes
        yield


@pytest.mark.parametrize("way", ["policy first", pytest.param("shared picture", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "offset", [pytest.param(0, marks=pytest.mark.slow), 128, pytest.param(2048, marks=pytest.mark.slow)]
)
def test_decisions_with_a_shared_prefix_are_those_without(way, offset, checkpoint):
    folder, weights = checkpoint
    save_file(with_offset(weights, offset), folder / "model.safetensors", {"format": "pt"})
    chosen = {"policy": folder / "policy.txt", "text_length": 24, **WAYS[way]}
    exact, half = (VlmGuard.from_pretrained(folder, dtype=dtype, **chosen) for dtype in ("float32", "bfloat16"))
    random = np.random.default_rng(offset)
    tokens = jnp.asarray(random.integers(0, exact.vocab_size, (ROWS, 24)), jnp.int32)
    pictures = random.normal(0.5, 0.5, (ROWS, SIDE, SIDE, 3)) if way == "policy first" else [picture()] * ROWS
    images = jnp.asarray(pictures, jnp.float32)
    margins = np.asarray(exact.margin(tokens, images))
    forward, parameters = half.functional()
    unshared = dataclasses.replace(forward, cached=False, share_image=False)
    shared = np.asarray(half.margin(tokens, images)) - margins
    apart = np.asarray(jax.jit(unshared)(parameters | {"prefix": None}, tokens, images)) - margins
    rms = lambda error: float(np.sqrt(np.mean(error**2)))
    assert rms(shared) < 1.6 * rms(apart)
    assert rms(apart) < 0.5 * margins.std()
    clear = np.abs(margins) > 4 * rms(apart)
    assert clear.mean() > 0.1
    np.testing.assert_array_equal((margins + shared > 0)[clear], (margins + apart > 0)[clear])


def several_texts(guard, pictures=4, texts=9, seed=0):
    """Noisy pictures, and texts without PADs for each."""
    random = np.random.default_rng(seed)
    tokens = jnp.asarray(random.integers(1, guard.vocab_size, (pictures, texts, guard.text_length)), jnp.int32)
    return tokens, jnp.asarray(random.normal(0.5, 0.5, (pictures, SIDE, SIDE, 3)), jnp.float32)


def of_pictures(guard, tokens, images):
    apply, parameters = guard.shared_picture(), guard.functional()[1]
    return np.asarray(jax.jit(apply)(parameters, tokens, images))


@pytest.mark.parametrize(
    "chosen", [{}, pytest.param({"template": "policy_first", "share_image": True}, marks=pytest.mark.slow)]
)
def test_texts_that_share_a_picture_have_the_margins_of_separate_passes(chosen, checkpoint):
    folder, weights = checkpoint
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    guard = VlmGuard.from_pretrained(folder, policy=folder / "policy.txt", text_length=24, **chosen)
    tokens, images = several_texts(guard)
    tokens = tokens.at[:, ::2, 15:].set(0)  # shorter texts among longer ones
    together = of_pictures(guard, tokens, images)
    apart = guard.margin(tokens.reshape(-1, 24), jnp.repeat(images, 9, axis=0))
    np.testing.assert_allclose(together.reshape(-1), apart, rtol=0, atol=1e-5)
    assert together.std() > 0.01
    same = jnp.broadcast_to(images[:1], images.shape)  # noise on texts alone
    apart = guard.margin(tokens.reshape(-1, 24), jnp.repeat(same, 9, axis=0))
    np.testing.assert_allclose(of_pictures(guard, tokens, same).reshape(-1), apart, rtol=0, atol=1e-5)


def margins_of_torch(folder, guard, tokens, images, dtype):
    """Each text with its picture in a pass of its own."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    layout, (pictures, texts, length) = guard.prompt.layout, tokens.shape
    front = [*layout.before, *[layout.tokens.image_token] * guard.prompt.image_tokens, *layout.between]
    shown = np.asarray(guard.alphabet.table)[np.asarray(tokens).reshape(-1, length)].tolist()
    dtype = getattr(torch, dtype)
    network = transformers.LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
    pixels = np.moveaxis(np.asarray(layout.pixels(jnp.repeat(images, texts, axis=0))), -1, -3)
    with torch.inference_mode():
        logits = network(
            input_ids=torch.tensor([[*front, *row, *layout.after, *layout.beginning] for row in shown]),
            image_sizes=torch.tensor([guard.image_size] * pictures * texts),
            pixel_values=torch.tensor(pixels).to(dtype),
            logits_to_keep=1,
        ).logits[:, -1]
    logits = logits.float()
    unsafe, safe = (logits[:, list(ids)].logsumexp(dim=1) for ids in (layout.unsafe, layout.safe))
    return (unsafe - safe).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0, 32, 512, 2048])
def test_in_bfloat16_they_are_no_farther_from_the_truth_than_pytorch(offset, tmp_path):
    """Over networks, by a t-test: if both round alike, the log ratio of their errors has the mean 0.

    One network does not tell: the rms over its texts is that of a few texts at which an attention is about to switch,
    where the rounding of the weights alone, the same for both, is magnified as well. There either may be the one that
    is luckier, by factors of 2.
    """
    margin = None
    ratios = []
    for seed in range(8):
        folder = tmp_path / str(seed)
        folder.mkdir()
        rotary = {"rope_type": "default", "rope_theta": 1e12}
        make_checkpoint(folder, seed=seed, num_hidden_layers=3, rope_parameters=rotary)
        save_file(
            with_offset(load_file(folder / "model.safetensors"), offset), folder / "model.safetensors", {"format": "pt"}
        )
        (folder / "policy.txt").write_text(POLICY)
        guard = VlmGuard.from_pretrained(folder, policy=folder / "policy.txt", text_length=24, dtype="bfloat16")
        margin = jax.jit(guard.shared_picture()) if margin is None else margin  # one program for all weights
        tokens, images = several_texts(guard, 36, 2, seed)
        exact, theirs = (margins_of_torch(folder, guard, tokens, images, name) for name in ("float32", "bfloat16"))
        ours = np.asarray(margin(guard.functional()[1], tokens, images)).reshape(-1)
        ratios.append(np.log(np.mean((ours - exact) ** 2) / np.mean((theirs - exact) ** 2)) / 2)
    error = np.std(ratios, ddof=1) / np.sqrt(len(ratios))
    assert np.mean(ratios) <= stats.t.ppf(0.999, len(ratios) - 1) * error
    assert np.mean(ratios) < np.log(1.5)  # whatever the spread: log-sum-exps in half precision made it 40


@pytest.mark.slow
def test_a_run_of_a_guard_has_the_counts_of_its_streams_drawn_alone(checkpoint, tmp_path):
    folder, weights = checkpoint
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    guard = VlmGuard.from_pretrained(folder, policy=folder / "policy.txt", text_length=12)

    class Alone:
        shared_picture, functional, tie_tolerance = None, guard.functional, guard.tie_tolerance
        __call__ = guard.__call__

    encoded = [guard.encode(text, picture(seed=number)) for number, text in enumerate(["hello", "how are you"])]
    arrays = [np.stack([getattr(each, name) for each in encoded]) for name in ("tokens", "image", "eligible")]
    smoothing = HybridSmoothing(UniformKernel(0.25, guard.vocab_size), 0.25)
    groups = tuple(StreamGroup(FixedSample(20 + d), (tuple(range(d)),)) for d in range(1, 5))
    counts = []
    for classifier in (Alone(), guard):
        with Ledger.create(tmp_path / str(len(counts)), {}) as ledger:
            inputs = ArrayInputs(("a", "b"), *arrays)
            sample_run(ledger, classifier, inputs, range(2), smoothing, groups, run_key(1), batch_size=8)
            counts.append({(row.index, row.stream): (row.draws, row.counts, row.ties) for row in ledger.rows()})
    assert counts[0] == counts[1]
    assert len(counts[0]) == 8
