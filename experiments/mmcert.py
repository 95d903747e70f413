"""An MMCert-style baseline: independent subsampling of tokens and image patches (paper A.10, Table 6).

    python experiments/mmcert.py --out mmcert
    python experiments/mmcert.py --model CHECKPOINT --data unsafe.csv --out mmcert

A noisy copy keeps k1 of n1 tokens and k2 of n2 patches, both drawn without replacement; dropped tokens become PAD,
dropped patches 0. The threat: at most r1 tokens and r2 patches are changed, at will.

The certificate. A copy that keeps no changed element is the same for the clean and the attacked input, with the same
probability; over all copies that is the overlap

    pi(r1, r2) = C(n1 - r1, k1) / C(n1, k1) * C(n2 - r2, k2) / C(n2, k2).

The clean score has at most 1 - pi outside of the overlap, so the attacked score is at least max(0, p_A - (1 - pi)). It
is the Neyman-Pearson bound of two laws that agree on mass pi and are disjoint otherwise; no better one holds for all
classifiers. Certified when p_A - (1 - pi) > tau, in exact rational arithmetic, p_A being the Clopper-Pearson bound.
A.10 writes no formula: it calls an example certifiable when its score exceeds tau. That is the condition for no attack
at all; with r1 = 1 the bound asks for p_A > k1/n1 + tau. (Taken literally it also contradicts Table 6, where a mean
score of 0.12, far above tau = 4.6e-5, goes with 0 of 100 examples.)

An l2 attacker may change every pixel, so r2 = n2 and pi = 0 for any k2 >= 1: nothing is certified at any eps > 0.

Tokens are drawn from all 16 positions, as in MMCert, or from the 8 of the suffix, where the attacker of the suffix
threat is; there the clean tokens are PAD already and dropping them changes nothing. Of a checkpoint these are the
positions of its text region, and those behind the trusted text; a patch side of p is p eighths of the picture's.
Default: 500 copies per input. Counts are saved as they come; a second call with the same settings goes on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import _common as common
import jax
import jax.numpy as jnp
import numpy as np
from _subject import EVERYWHERE, SUFFIX, Subject, add_flags, open_subject, parsed

import hybrid_rs_jax as hrs
from hybrid_rs_jax._text import floor_text
from hybrid_rs_jax.errors import library_sentences

#: Patches of side 1 along a side of the picture; those of the demo are pixels.
SIDE = 8
#: The symbol of an empty position, of the demo and of every checkpoint.
PAD = 0
RATIOS = (1.0, 0.9, 0.75, 0.5, 0.2, 0.1, 0.05)
FEW_RATIOS = (0.9, 0.5, 0.2, 0.1)
#: Side of the patches in the figure.
COMMON_PATCH = 2
#: Changed tokens, changed patches; None: all patches, which is what an l2 attacker with eps > 0 may do.
THREATS: tuple[tuple[int, int | None], ...] = ((0, 0), (1, 0), (2, 0), (0, 1), (0, 2), (1, 1), (0, None), (1, None))


@dataclasses.dataclass(frozen=True)
class Subsampling:
    """Keep `kept_tokens` of `tokens` positions and `kept_patches` of `patches`, independently, without replacement."""

    tokens: int
    kept_tokens: int
    patches: int
    kept_patches: int

    def overlap(self, changed_tokens: int, changed_patches: int) -> Fraction:
        """Probability that no changed element is kept, exact.

        Raises:
          ValueError: if there are not so many elements.
        """
        parts = (
            ("tokens", self.tokens, self.kept_tokens, changed_tokens),
            ("patches", self.patches, self.kept_patches, changed_patches),
        )
        result = Fraction(1)
        for name, number, kept, changed in parts:
            if not 0 <= changed <= number:
                raise ValueError(f"The number of changed {name} must lie in 0..{number}, got {changed}.")
            result *= Fraction(math.comb(number - changed, kept), math.comb(number, kept))
        return result

    def worst_case(self, p_a: float, changed_tokens: int, changed_patches: int) -> Fraction:
        """Least score that an attack can cause where the clean one is at least `p_a`: max(0, p_a - (1 - pi)), exact."""
        return max(Fraction(0), Fraction(p_a) - (1 - self.overlap(changed_tokens, changed_patches)))

    def attack(self, tokens: int, patches: int | None) -> tuple[int, int]:
        """So many changed elements, but no more than there are; None: all patches."""
        return min(tokens, self.tokens), self.patches if patches is None else min(patches, self.patches)


#: Numbers of a subsampling.
SIZES = tuple(field.name for field in dataclasses.fields(Subsampling))


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row of the table: where tokens are drawn from, patch side in pixels, share of tokens and patches kept."""

    region: str
    patch: int
    token_ratio: float
    patch_ratio: float

    @property
    def name(self) -> str:
        return f"{self.region}-patch{self.patch}-{self.token_ratio:g}-{self.patch_ratio:g}"

    @property
    def grid(self) -> int:
        """Patches along a side of the picture."""
        return SIDE // self.patch

    def mask(self, suffix: np.ndarray) -> np.ndarray:
        """Positions of tokens that may be dropped, given those behind the trusted text: bool[L] both."""
        return (SUFFIX if self.region == "suffix" else EVERYWHERE).of(suffix)

    def subsampling(self, suffix: np.ndarray) -> Subsampling:
        """Whole numbers: the ratios rounded, at least one element kept where there is one."""
        tokens, patches = int(self.mask(suffix).sum()), self.grid**2
        kept = (min(m, max(1, round(r * m))) for r, m in ((self.token_ratio, tokens), (self.patch_ratio, patches)))
        return Subsampling(tokens, next(kept), patches, next(kept))


SETTINGS = (
    *(Setting("all", 2, ratio, ratio) for ratio in RATIOS),
    *(Setting("all", patch, ratio, ratio) for patch in (1, 4) for ratio in FEW_RATIOS),
    *(Setting("all", 2, 1.0, ratio) for ratio in FEW_RATIOS),
    *(Setting("all", 2, ratio, 1.0) for ratio in (0.5, 0.2)),
    *(Setting("suffix", 2, ratio, ratio) for ratio in RATIOS[1:]),
)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return common.start("mmcert.py", run, parsed(parser(), argv))


def parser() -> argparse.ArgumentParser:
    """Flags."""
    made = common.new_parser(__doc__)
    common.add_input_arguments(made, 500, "input and setting")
    add_flags(made)
    return made


def run(args: argparse.Namespace) -> None:
    """Sample every setting, certify, write."""
    common.check_whole(args, {"samples": 1, "inputs": 1})
    subject = open_subject(args)
    settings = {
        "seed": args.seed,
        "inputs": len(subject.unsafe.ids),
        "n": args.samples,
        "tau": common.TAU,
        "alpha": common.ALPHA,
        "rows": [setting.name for setting in SETTINGS],
        **subject.record,
    }
    if common.is_finished(args.out, settings):
        return
    rows = [row_of(args, subject, setting) for setting in SETTINGS]
    content = {
        "threats": [list(threat) for threat in THREATS],
        "rows": rows,
        "cpu_s": sum(row["cpu_s"] for row in rows),
    }
    draw_figure(args, subject, settings, content)
    common.write_result(args.out, settings, content)
    print(summary(content))


def row_of(args: argparse.Namespace, subject: Subject, setting: Setting) -> dict[str, Any]:
    """Scores and certified accuracies of one setting; numbers that differ between inputs are means."""
    inputs = subject.unsafe
    same = {
        "setting": dataclasses.asdict(setting),
        "inputs": list(inputs.ids),
        "n": args.samples,
        "seed": args.seed,
        **(subject.record or {"classifier": subject.guard.describe()}),
    }

    begun = args.out / f"begun-{setting.name}.npz"

    def draw() -> dict[str, Any]:
        wall, cpu = time.perf_counter(), time.process_time()
        successes = common.row_by_row(begun, same, len(inputs.ids), Votes(subject, setting, args), setting.name)
        return {"successes": successes, "seconds": [time.perf_counter() - wall, time.process_time() - cpu]}

    found = common.saved(args.out / f"counts-{setting.name}.npz", same, draw)
    begun.unlink(missing_ok=True)
    p_a = np.asarray(hrs.clopper_pearson(found["successes"], args.samples, common.ALPHA))
    each = [setting.subsampling(inputs.read(number).eligible) for number in range(len(inputs.ids))]
    return {
        **dataclasses.asdict(setting),
        **dict(zip(SIZES, np.mean([dataclasses.astuple(one) for one in each], axis=0).tolist(), strict=True)),
        "mean_score": float(found["successes"].mean() / args.samples),
        "mean_p_a": float(p_a.mean()),
        "above_tau": float((p_a > common.TAU).mean()),
        "required_p_a": [
            float(np.mean([1 - float(one.overlap(*one.attack(*threat))) for one in each])) + common.TAU
            for threat in THREATS
        ],
        "certified": [certified_share(each, p_a, threat) for threat in THREATS],
        "cpu_s": float(found["seconds"][1]),
    }


def certified_share(each: Sequence[Subsampling], p_a: np.ndarray, threat: tuple[int, int | None]) -> float:
    """Share of inputs whose worst-case score exceeds tau."""
    tau = Fraction(common.TAU)
    worst = (one.worst_case(p, *one.attack(*threat)) for one, p in zip(each, p_a.tolist(), strict=True))
    return float(np.mean([score > tau for score in worst]))


# the noise


class Votes:
    """Copies of an input, out of n, that the guard calls Unsafe."""

    def __init__(self, subject: Subject, setting: Setting, args: argparse.Namespace):
        self.subject, self.setting, self.n, self.seed = subject, setting, args.samples, args.seed
        self.batch = min(args.samples, subject.copies_at_once)
        with library_sentences():
            self.apply, self.parameters = subject.guard.functional()

    def __call__(self, number: int) -> int:
        """Votes for the input of this number."""
        found, counted = self.subject.unsafe.read(number), 0
        key, one = jax.random.fold_in(jax.random.key(self.seed), number), self.setting.subsampling(found.eligible)
        for first in range(0, self.n, self.batch):
            unsafe = classified(
                self.apply,
                self.setting.grid,
                self.batch,
                self.parameters,
                found.tokens,
                found.image,
                self.setting.mask(found.eligible),
                np.int32(one.kept_tokens),
                np.int32(one.kept_patches),
                key,
                np.int32(first),
            )
            counted += int(np.asarray(unsafe)[: self.n - first].sum())
        return counted


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def classified(
    apply: Callable[..., Any],
    grid: int,
    batch: int,
    parameters: Any,
    tokens: Any,
    image: Any,
    mask: Any,
    kept_tokens: Any,
    kept_patches: Any,
    key: Any,
    first: Any,
) -> Any:
    """Is each of the copies first .. first + batch - 1 called Unsafe? bool[batch]."""

    def copy(number: Any) -> tuple[Any, Any]:
        own = jax.random.fold_in(key, number)
        return subsampled(own, tokens, image, mask, grid, kept_tokens, kept_patches)

    noisy = jax.vmap(copy)(first + jnp.arange(batch, dtype=jnp.int32))
    return apply(parameters, *noisy) > 0


def subsampled(
    key: Any, tokens: Any, image: Any, mask: Any, grid: int, kept_tokens: Any, kept_patches: Any
) -> tuple[Any, Any]:
    """One copy: of the tokens at `mask` and of grid^2 patches exactly so many are kept, each set equally likely."""
    key_tokens, key_patches = jax.random.split(key)
    order = jax.random.permutation(key_tokens, tokens.shape[0])
    rank = (mask & (order[None, :] < order[:, None])).sum(axis=1)
    tokens = jnp.where(mask & (rank >= kept_tokens), jnp.asarray(PAD, tokens.dtype), tokens)
    kept = (jax.random.permutation(key_patches, grid * grid) < kept_patches).reshape(grid, grid)
    rows, columns = (np.arange(side) * grid // side for side in image.shape[:2])
    return tokens, jnp.where(kept[rows][:, columns, None], image, jnp.zeros((), image.dtype))


# figure and words


def draw_figure(
    args: argparse.Namespace, subject: Subject, settings: Mapping[str, Any], content: Mapping[str, Any]
) -> None:
    """Score that is reached against the score that is needed, for both regions; and what is certified."""
    figure, axes = common.new_figure(1, 3, (11.0, 4.2))
    needs = (((1, 0), common.BLUE, "--"), ((0, 1), common.GREEN, "-."), ((1, 1), common.PURPLE, ":"))
    length, patches = subject.shape.tokens.size, (SIDE // COMMON_PATCH) ** 2
    for ax, region, title in (
        (axes[0, 0], "all", f"Tokens: all {length}; patches: {patches}"),
        (axes[0, 1], "suffix", f"Tokens: suffix; patches: {patches}"),
    ):
        rows = symmetric(content["rows"], region)
        kept = [row["token_ratio"] for row in rows]
        ax.plot(
            kept, [row["mean_score"] for row in rows], "o-", color=common.ORANGE, lw=2, label="score reached (mean)"
        )
        for change, colour, dashes in needs:
            need = [row["required_p_a"][THREATS.index(change)] for row in rows]
            ax.plot(kept, need, dashes, color=colour, label=f"needed: {threat_text(change)}")
        common.panel_title(ax, title)
    axes[0, 0].set_ylabel("smoothed score")
    shown: tuple[tuple[int, int | None], ...] = ((1, 0), (0, 1), (1, 1), (0, None))
    marks = (("o", common.BLUE), ("s", common.GREEN), ("^", common.PURPLE), ("x", common.ORANGE))
    for threat, (marker, colour) in zip(shown, marks, strict=True):
        rows = symmetric(content["rows"], "suffix")
        share = [row["certified"][THREATS.index(threat)] for row in rows]
        name = f"suffix: {threat_text(threat)}"
        axes[0, 2].plot([row["token_ratio"] for row in rows], share, "-", marker=marker, ms=5, color=colour, label=name)
    rows = symmetric(content["rows"], "all")
    best = [max(row["certified"][THREATS.index(threat)] for threat in shown) for row in rows]
    kept = [row["token_ratio"] for row in rows]
    axes[0, 2].plot(kept, best, "--", color=common.INK, lw=2, label=f"all {length} tokens: best of these")
    common.panel_title(axes[0, 2], "Share of inputs certified")
    for ax in axes[0]:
        ax.set_xlabel("keep ratio (tokens and patches)")
        ax.set_ylim(-0.03, 1.5)
        ax.set_yticks(np.arange(0, 1.01, 0.2))
        ax.legend(frameon=False, fontsize=8, loc="upper left")
    setting = (
        f"{settings['inputs']} {subject.inputs_name}; n = {settings['n']:,}; τ = {settings['tau']:.2g}; "
        f"α = {settings['alpha']:g} per input"
    )
    title = f"MMCert-style subsampling on {subject.name}: score reached, score needed, inputs certified"
    common.save_figure(figure, args.out / "mmcert.png", title, setting)


def symmetric(rows: list[dict[str, Any]], region: str) -> list[dict[str, Any]]:
    """Rows with the same keep ratio for both and the common patch size."""
    return [
        row
        for row in rows
        if row["region"] == region and row["patch"] == COMMON_PATCH and row["token_ratio"] == row["patch_ratio"]
    ]


def threat_text(threat: tuple[int, int | None]) -> str:
    """A threat in words."""
    tokens, patches = threat
    text = f"{tokens} token{'s' * (tokens != 1)}"
    if patches is None:
        return "ℓ2, any ε > 0" if tokens == 0 else f"{text} and ℓ2"
    return f"{text}, {patches} patch{'es' * (patches != 1)}"


def summary(content: Mapping[str, Any]) -> str:
    """The table, floored."""
    lines = ["region patch keep        mean score  certified % at " + " ".join(str(t) for t in content["threats"])]
    for row in content["rows"]:
        cells = " ".join(f"{floor_text(100 * share, 1):>6s}" for share in row["certified"])
        kept = "{kept_tokens:.3g}/{tokens:.3g} {kept_patches:.0f}/{patches:.0f}".format(**row)
        lines.append(
            f"{row['region']:6s} {row['patch']}     {kept:11s} {floor_text(row['mean_score']):>6s}      {cells}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
