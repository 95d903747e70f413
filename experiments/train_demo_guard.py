"""Train the built-in demo guard from scratch, measure it on held-out pictures and write its weights.

    python experiments/train_demo_guard.py --out demo_guard.npz

Noise is the main augmentation: every training picture gets Gaussian noise with a sigma of its own in
[0, 0.5], and every suffix gets appended words (also such that name the pictured digit) and uniform token
replacement, so that the guard learns to read the prompt alone. Takes a few minutes on 2 CPU cores.
Needs optax and scikit-learn: pip install "hybrid-rs-jax[experiments]".
"""

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float32, Float64, Int32, PRNGKeyArray

from hybrid_rs_jax.classifiers.demo_guard import DemoGuard
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.models.demo_guard import DemoGuardConfig, DemoGuardNetwork, save_weights

WEIGHTS = Path(__file__).parents[1] / "hybrid_rs_jax" / "models" / "weights" / "demo_guard.npz"
BATCH = 1024
LEARNING_RATE = 3e-3
SIGMA_MAX = 0.5
BETAS = (0.0, 0.1, 0.25, 0.5)
# A missed unsafe copy lowers the certified score, a false alarm on a safe one does not.
UNSAFE_WEIGHT = 6.0
BLANK_SHARE = 0.05
PROMPTS_PER_GROUP = 2000
# Prompt groups: ask for digit 0..9, mention digit 0..9, errand, chat.
ERRAND, CHAT = 20, 21


def prompt_pool(seed: int, size: int = PROMPTS_PER_GROUP) -> Int32[np.ndarray, "22 size 16"]:
    """Encoded prompts of every group; two in five are scrambled, so that every word is met in every place."""
    rng = random.Random(seed)
    groups = [(kind, digit) for kind in ("ask", "mention") for digit in range(10)]
    groups += [("errand", None), ("chat", None)]
    return np.stack(
        [
            np.stack([demo.encode(demo.draw_prompt(rng, kind, digit, rng.random() < 0.4)) for _ in range(size)])
            for kind, digit in groups
        ]
    )


def warp(images: Float32[Array, "b 8 8 1"], key: PRNGKeyArray) -> Float32[Array, "b 8 8 1"]:
    """Shift (up to 1 pixel), rotate, scale and shear each picture a little, and change its contrast."""
    batch, side = images.shape[0], images.shape[1]
    uniform = jax.random.uniform(key, (batch, 7), jnp.float32, -1.0, 1.0)
    angle, shear = 0.2 * uniform[:, 0], 0.15 * uniform[:, 1]
    scale_y, scale_x = 1.0 + 0.12 * uniform[:, 2], 1.0 + 0.12 * uniform[:, 3]
    shift = 1.0 * uniform[:, 4:6]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    matrix = jnp.stack([cos * scale_y, -sin + shear, sin, cos * scale_x], -1).reshape(batch, 2, 2)
    middle = jnp.float32((side - 1) / 2)
    axis = jnp.arange(side, dtype=jnp.float32)
    grid = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2) - middle
    source = jnp.einsum("bij,pj->bpi", matrix, grid) + middle + shift[:, None, :]
    # Bilinear: a pixel weighs max(0, 1 - distance) along each axis; outside the picture all is 0.
    tent = jax.nn.relu(1.0 - jnp.abs(source[..., None] - axis[None, None, None, :]))
    pixels = jnp.einsum("bpy,bpx,byx->bp", tent[:, :, 0], tent[:, :, 1], images[..., 0])
    return (pixels * (1.0 + 0.15 * uniform[:, 6:])).reshape(batch, side, side, 1)


def draw_suffix(pictured: Int32[Array, " b"], key: PRNGKeyArray) -> Int32[Array, "b 8"]:
    """Suffixes as an attacker might append them (any words, or actions and digits), then token noise."""
    batch = pictured.shape[0]
    keys = jax.random.split(key, 7)
    shape = (batch, demo.SUFFIX_LENGTH)
    digits, actions = jnp.asarray(demo.token_ids("digit")), jnp.asarray(demo.token_ids("action"))
    words = jax.random.randint(keys[0], shape, 1, demo.VOCAB_SIZE, jnp.int32)
    numbers = jnp.where(
        jax.random.bernoulli(keys[1], 0.5, shape),
        digits[pictured][:, None],
        jax.random.choice(keys[2], digits, shape),
    )
    triggers = jnp.where(jax.random.bernoulli(keys[3], 0.5, shape), numbers, jax.random.choice(keys[4], actions, shape))
    recipe = jax.random.randint(keys[5], (batch, 2), 0, demo.SUFFIX_LENGTH + 1, jnp.int32)
    appended = jnp.where(recipe[:, :1] % 2 == 0, words, triggers)
    suffix = jnp.where(jnp.arange(demo.SUFFIX_LENGTH, dtype=jnp.int32)[None] < recipe[:, 1:], appended, demo.PAD)
    beta_key, replace_key, token_key = jax.random.split(keys[6], 3)
    beta = jax.random.choice(beta_key, jnp.array(BETAS, jnp.float32), (batch, 1))
    return replace_tokens(suffix, beta, replace_key, token_key)


def replace_tokens(
    tokens: Int32[Array, "b l"],
    beta: float | Float32[Array, "b 1"],
    replace_key: PRNGKeyArray,
    token_key: PRNGKeyArray,
) -> Int32[Array, "b l"]:
    """Uniform replacement by another token of the alphabet, with probability beta at each position."""
    step = jax.random.randint(token_key, tokens.shape, 1, demo.VOCAB_SIZE, jnp.int32)
    replaced = jax.random.uniform(replace_key, tokens.shape, jnp.float32) < beta
    return jnp.where(replaced, (tokens + step) % demo.VOCAB_SIZE, tokens)


def draw_batch(
    images: Float32[Array, "n 8 8 1"],
    digits: Int32[Array, " n"],
    pool: Int32[Array, "g p 16"],
    key: PRNGKeyArray,
) -> tuple[Int32[Array, "b 16"], Float32[Array, "b 8 8 1"], Bool[Array, " b"]]:
    """One noisy training batch: tokens, pictures, labels."""
    keys = jax.random.split(key, 9)
    row = jax.random.randint(keys[0], (BATCH,), 0, images.shape[0], jnp.int32)
    pictured = digits[row]
    other = (pictured + jax.random.randint(keys[1], (BATCH,), 1, 10, jnp.int32)) % 10
    kind = jax.random.uniform(keys[2], (BATCH,), jnp.float32)
    group = jnp.select(
        [kind < 0.45, kind < 0.75, kind < 0.85, kind < 0.88, kind < 0.94],
        [pictured, other, pictured + 10, other + 10, jnp.full_like(row, ERRAND)],
        CHAT,
    )
    prompt = pool[group, jax.random.randint(keys[3], (BATCH,), 0, pool.shape[1], jnp.int32)]
    suffix = draw_suffix(pictured, keys[4])
    tokens = jnp.concatenate([prompt[:, : demo.PROMPT_LENGTH], suffix], axis=1)
    blank = jax.random.uniform(keys[5], (BATCH,), jnp.float32) < BLANK_SHARE
    pictures = jnp.where(blank[:, None, None, None], 0.0, warp(images[row], keys[6]))
    # A fifth without noise, two fifths around the sigma of the demo, the rest anywhere.
    share, level = jax.random.uniform(keys[7], (2, BATCH, 1, 1, 1), jnp.float32)
    sigma = jnp.where(share < 0.2, 0.0, jnp.where(share < 0.6, 0.2 + 0.15 * level, SIGMA_MAX * level))
    noisy = pictures + sigma * jax.random.normal(keys[8], pictures.shape, jnp.float32)
    return tokens, noisy, (kind < 0.45) & ~blank


def train(network: DemoGuardNetwork, seed: int, steps: int) -> list[float]:
    """Train in place, down to a moving average of the parameters; returns the mean loss of each twentieth."""
    chunk = max(steps // 20, 1)
    inputs = demo.load_demo("train")
    data = (jnp.asarray(inputs.images), jnp.asarray(inputs.digits), jnp.asarray(prompt_pool(seed)))
    graph, params = nnx.split(network)
    schedule = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, chunk, max(steps, 2))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-3))

    def loss_of(params: nnx.State, key: PRNGKeyArray) -> Float32[Array, ""]:
        tokens, images, labels = draw_batch(*data, key)
        logits = nnx.merge(graph, params)(tokens, images)
        weights = jnp.where(labels, UNSAFE_WEIGHT, 1.0)
        losses = optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32))
        return (weights * losses).sum() / weights.sum()

    @jax.jit
    def step(
        params: nnx.State, mean: nnx.State, state: optax.OptState, index: int
    ) -> tuple[nnx.State, nnx.State, optax.OptState, Float32[Array, ""]]:
        loss, grads = jax.value_and_grad(loss_of)(params, jax.random.fold_in(jax.random.key(seed), index))
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        mean = jax.tree.map(lambda old, new: old + 0.005 * (new - old), mean, params)
        return params, mean, state, loss

    # A Python loop, not lax.scan: XLA uses one thread for what it finds inside a loop on the CPU.
    mean, state, losses, recent = params, optimizer.init(params), [], []
    started = time.perf_counter()
    for index in range(steps):
        params, mean, state, loss = step(params, mean, state, index)
        recent.append(loss)
        if len(recent) == chunk or index + 1 == steps:
            losses.append(float(jnp.stack(recent).mean()))
            recent.clear()
            seconds = time.perf_counter() - started
            print(f"step {index + 1:6d}  loss {losses[-1]:.4f}  {seconds:6.1f} s", flush=True)
    nnx.update(network, mean)
    return losses


def safe_rate(guard: DemoGuard, tokens: Int32[np.ndarray, "n 16"], images: Float32[np.ndarray, "n 8 8 1"]) -> float:
    """Share of Safe decisions."""
    return float(np.mean(~np.asarray(guard(tokens, images))))


def noisy_rates(
    guard: DemoGuard, inputs: demo.DemoInputs, sigma: float, beta: float, draws: int, seed: int
) -> Float64[np.ndarray, " n"]:
    """Share of Unsafe decisions per input, over noisy copies."""
    tokens, images = jnp.asarray(inputs.tokens), jnp.asarray(inputs.images)

    @jax.jit
    def decide(index: int) -> Bool[Array, " n"]:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), index), 3)
        suffix = replace_tokens(tokens[:, demo.PROMPT_LENGTH :], beta, keys[0], keys[1])
        noise = jax.random.normal(keys[2], images.shape, jnp.float32)
        return guard(jnp.concatenate([tokens[:, : demo.PROMPT_LENGTH], suffix], axis=1), images + sigma * noise)

    return sum(np.asarray(decide(index), np.float64) for index in range(draws)) / draws


def evaluate(guard: DemoGuard, draws: int, seed: int) -> dict[str, float]:
    """Every number that is printed and stored with the weights, on held-out pictures and prompts."""
    inputs = demo.load_demo("held_out")
    labels, count = inputs.labels, len(inputs)
    rng = np.random.default_rng(seed)
    prompts = prompt_pool(seed + 1, 200).reshape(-1, demo.LENGTH)
    attacked = inputs.tokens.copy()
    triggers = np.concatenate([demo.token_ids("digit"), demo.token_ids("action")])
    attacked[:, demo.PROMPT_LENGTH :] = rng.choice(triggers, (count, demo.SUFFIX_LENGTH))
    decisions = np.asarray(guard(inputs.tokens, inputs.images))
    low, high = (noisy_rates(guard, inputs, sigma, 0.25, draws, seed) for sigma in (0.25, 0.5))
    return {
        "held_out_inputs": count,
        "clean_accuracy": float(np.mean(decisions == labels)),
        "clean_unsafe_recall": float(np.mean(decisions[labels])),
        "clean_accuracy_with_digit_and_action_words_in_the_suffix": float(
            np.mean(np.asarray(guard(attacked, inputs.images)) == labels)
        ),
        "safe_rate_blank_image": safe_rate(guard, prompts, np.zeros((len(prompts), *demo.IMAGE_SHAPE), np.float32)),
        "safe_rate_empty_text": safe_rate(guard, np.zeros_like(inputs.tokens), inputs.images),
        "noisy_accuracy_sigma_0.25_beta_0.25": float(np.mean(np.where(labels, low, 1 - low))),
        "noisy_accuracy_sigma_0.5_beta_0.25": float(np.mean(np.where(labels, high, 1 - high))),
        "noisy_safe_rate_sigma_0.25_beta_0.25": float(np.mean(1 - low[~labels])),
        "unsafe_inputs_with_score_0.99_at_sigma_0.25": float(np.mean(low[labels] >= 0.99)),
        "unsafe_inputs_with_score_0.999_at_sigma_0.25": float(np.mean(low[labels] >= 0.999)),
        "draws_per_input": draws,
    }


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description="Train the built-in demo guard and write its weights.",
        epilog="Example: python experiments/train_demo_guard.py --steps 4000 --out demo_guard.npz",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, prompts and noise (default 0)")
    parser.add_argument("--steps", type=int, default=4000, help=f"training steps of {BATCH} inputs (default 4000)")
    parser.add_argument("--draws", type=int, default=2000, help="noisy copies per input in the evaluation (2000)")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="weights file (default: the one in the package)")
    parser.add_argument("--force", action="store_true", help="overwrite the weights file")
    args = parser.parse_args(argv)
    if not 0 <= args.seed < 2**31:
        parser.error(f"--seed must lie in 0..2147483647, but it is {args.seed}.")
    for name in ("steps", "draws"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, but it is {getattr(args, name)}.")
    if args.out.suffix != ".npz":
        parser.error(f"--out must name a .npz file, but it is {args.out}.")
    if not args.out.parent.is_dir():
        parser.error(f"--out lies in a folder that does not exist: {args.out.parent}.")
    if args.out.exists() and not args.force:
        parser.error(f"{args.out} exists; say --force to overwrite it.")

    network = DemoGuardNetwork(DemoGuardConfig(), nnx.Rngs(args.seed))
    losses = train(network, args.seed, args.steps)
    # Measure the weights that are written: float16.
    nnx.update(network, jax.tree.map(lambda x: x.astype(jnp.float16).astype(jnp.float32), nnx.state(network)))
    results = evaluate(DemoGuard(network), args.draws, args.seed)
    training = {
        "seed": args.seed,
        "steps": args.steps,
        "batch": BATCH,
        "jax": jax.__version__,
        "flax": flax.__version__,
    }
    save_weights(network, args.out, {"training": training, "results": results})
    for name, value in results.items():
        print(f"{name:60s} {floored(value)}")
    print(json.dumps({"training": training, "losses": losses, "results": results, "weights": str(args.out)}))
    return 0


def floored(value: float) -> str:
    """A number as text, never rounded up."""
    return str(value) if isinstance(value, int) else f"{math.floor(value * 10_000) / 10_000:.4f}"


if __name__ == "__main__":
    sys.exit(main())
