"""Attacks with gradients on vision-language guards: exact margins and slopes, budgets that are kept, and the script."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_rs_jax.attacks import DifferentiableGuard
from hybrid_rs_jax.data import demo

pytest.importorskip("transformers", reason="tokenizers are read with transformers")
sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import guard_attack

TINY = guard_attack.TINY
SMALL = {"inputs": 2, "samples": 300, "final": 100, "restarts": 1, "steps": 2, "copies": 8}


@pytest.fixture(scope="module", params=["checkpoint", pytest.param("policy_first", marks=pytest.mark.slow)])
def guard(request):
    from hybrid_rs_jax.classifiers import VlmGuard

    chosen = {"policy": TINY / "policy.txt", "text_length": 16, "image_size": (8, 8), "template": request.param}
    return VlmGuard.from_pretrained(TINY, **chosen)


def test_the_margin_of_embeddings_is_that_of_the_tokens_and_its_slope_that_of_small_steps(guard):
    random = np.random.default_rng(0)
    tokens = random.integers(1, guard.vocab_size, (6, 16)).astype(np.int32)
    tokens[0], tokens[1, ::2], tokens[2:4, 8:] = 0, 0, 0
    images = random.random((6, 8, 8, 3)).astype(np.float32)
    assert isinstance(guard, DifferentiableGuard)
    margin, parameters, table = guard.embedded()
    assert guard.embedded()[0] == margin  # or every attack would compile anew
    rows = jnp.asarray(table)[tokens]
    found = jax.jit(margin)(parameters, rows, images)
    np.testing.assert_allclose(found, guard.margin(tokens, images), rtol=0, atol=2e-5)
    assert np.ptp(np.asarray(found)) > 0.1

    total = jax.jit(jax.value_and_grad(lambda rows, images: margin(parameters, rows, images).sum(), argnums=(0, 1)))
    _, (slope, pixels) = total(rows, jnp.asarray(images))
    assert not np.asarray(slope)[tokens == 0].any()  # nothing is shown of a pad
    step = 1e-2
    for place, gradient in enumerate((slope, pixels)):
        way = gradient / jnp.linalg.norm(gradient)
        moved = [rows, jnp.asarray(images)]
        up, down = (
            float(total(*(x + sign * step * way if i == place else x for i, x in enumerate(moved)))[0])
            for sign in (1, -1)
        )
        assert (up - down) / (2 * step) == pytest.approx(float(jnp.linalg.norm(gradient)), rel=0.05)


@pytest.mark.slow
def test_an_attack_on_the_tiny_guard_keeps_its_budgets_and_breaks_only_beyond_the_radius(tmp_path, capsys):
    flags = [f"--{name}={value}" for name, value in SMALL.items()]
    assert guard_attack.main(["--out", str(tmp_path / "run"), *flags]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (tmp_path / "run" / "guard_attack.png").stat().st_size > 10_000
    assert "0 violations in 12 cases" in capsys.readouterr().out
    for row in result["budgets"]:
        assert all(changes <= d for changes, d in zip(row["changes"], result["d"], strict=True))
        assert row["fraction"] > 1 or row["broken"] == 0
    inside, far = result["budgets"][1]["score"], result["budgets"][-1]["score"]
    assert np.mean(far) < np.mean(inside) - 0.2


@pytest.mark.slow
def test_a_table_of_the_user_gives_the_certificates_of_the_same_inputs_from_the_demo(tmp_path):
    from PIL import Image

    rows, lines = demo.held_out_unsafe(2), ["id,text,image"]
    for name, text, image in zip(rows.ids, rows.prompts, rows.images, strict=True):
        pixels = np.repeat((image * 255).round().astype(np.uint8), 3, axis=2)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        lines.append(f'{name},"{text}",{name}.png')
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    flags, found = [f"--{name}={value}" for name, value in SMALL.items()], []
    for number, more in enumerate(([], ["--data", str(tmp_path / "data.csv")])):
        assert guard_attack.main(["--out", str(tmp_path / str(number)), *flags, *more]) == 0
        result = json.loads((tmp_path / str(number) / "result.json").read_text())
        assert sum(row["violations"] for row in result["budgets"]) == 0
        found.append(result["p_a"])
    np.testing.assert_allclose(*found, rtol=0, atol=0.02)  # 8 bits per pixel in the files


@pytest.mark.parametrize("flags", [["--inputs", "0"], ["--inputs", "9999"], ["--steps", "0"], ["--model", "nowhere"]])
def test_what_cannot_be_attacked_ends_in_one_sentence(flags, tmp_path, capsys):
    assert guard_attack.main(["--out", str(tmp_path / "new"), *flags]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
