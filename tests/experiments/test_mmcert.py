"""The subsampling baseline: the bound by enumeration of subsamples and classifiers, the noise, the result."""

import itertools
import json
import sys
from fractions import Fraction
from pathlib import Path

import jax
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.classifiers import DemoGuard
from hybrid_rs_jax.data import demo

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import _common as common
import mmcert
from _subject import open_subject, parsed
from mmcert import Setting, Subsampling

FLAGS = ["--samples", "30", "--inputs", "3"]
ROWS = (Setting("all", 2, 1.0, 1.0), Setting("all", 2, 0.5, 0.5), Setting("suffix", 2, 0.5, 0.75))


@pytest.fixture(scope="module", autouse=True)
def _few_rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmcert, "SETTINGS", ROWS)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    assert mmcert.main(["--out", str(folder), *FLAGS]) == 0
    return folder


@pytest.fixture(scope="module")
def record(finished):
    return json.loads((finished / "result.json").read_text())


# the certificate


def subsamples(tokens, patches, kept_tokens, kept_patches):
    """Every ablated input: dropped elements are 0, all subsets equally likely."""
    for kept in itertools.combinations(range(len(tokens)), kept_tokens):
        for also in itertools.combinations(range(len(patches)), kept_patches):
            yield (
                tuple(t if i in kept else 0 for i, t in enumerate(tokens)),
                tuple(x if i in also else 0 for i, x in enumerate(patches)),
            )


def laws(tokens, patches, changed_tokens, changed_patches, kept):
    """How often each ablated input occurs for the clean and for the attacked input; changed elements become 9."""
    attacked = (9,) * changed_tokens + tokens[changed_tokens:], (9,) * changed_patches + patches[changed_patches:]
    clean_copies, attacked_copies = list(subsamples(tokens, patches, *kept)), list(subsamples(*attacked, *kept))
    seen = sorted({*clean_copies, *attacked_copies})
    return np.array([[copies.count(x) for x in seen] for copies in (clean_copies, attacked_copies)])


def least_attacked_scores(law):
    """For each attainable clean count the least attacked count, over ALL classifiers of the ablated inputs."""
    classifiers = np.array(list(itertools.product([0, 1], repeat=law.shape[1])))
    clean, attacked = (classifiers @ law.T).T
    return {int(count): int(attacked[clean >= count].min()) for count in np.unique(clean)}


TINY = [
    ((3, 2), (1, 1), (1, 0)),
    ((3, 2), (2, 1), (1, 0)),
    ((3, 2), (1, 1), (1, 1)),
    ((3, 2), (2, 1), (0, 1)),
    ((3, 2), (1, 1), (2, 1)),
    ((4, 1), (2, 1), (1, 0)),
    ((4, 1), (3, 1), (2, 0)),
    ((2, 3), (1, 2), (0, 1)),
    ((3, 2), (2, 1), (0, 2)),
]


@pytest.mark.parametrize(("sizes", "kept", "changed"), TINY)
def test_the_bound_is_the_least_score_over_all_classifiers(sizes, kept, changed):
    tokens, patches = tuple(range(1, 1 + sizes[0])), tuple(range(1, 1 + sizes[1]))
    law = laws(tokens, patches, *changed, kept)
    subsampling, total = Subsampling(sizes[0], kept[0], sizes[1], kept[1]), int(law[0].sum())
    for clean, attacked in least_attacked_scores(law).items():
        worst = max(Fraction(0), Fraction(clean, total) - (1 - subsampling.overlap(*changed)))
        assert worst == Fraction(attacked, total)


@pytest.mark.parametrize("tokens", [(0, 0, 0), (1, 0, 0), (1, 1, 2)])
def test_the_bound_holds_where_different_subsamples_look_alike(tokens):
    subsampling = Subsampling(3, 2, 2, 1)
    law = laws(tokens, (1, 0), 1, 1, (2, 1))
    for clean, attacked in least_attacked_scores(law).items():
        assert Fraction(clean, 6) - (1 - subsampling.overlap(1, 1)) <= Fraction(attacked, 6)


def test_overlap_is_the_share_of_subsamples_without_a_changed_element():
    for n1, k1, r1, n2, k2, r2 in itertools.product((4, 5), (1, 3), range(4), (3,), (1, 2), range(4)):
        copies = list(subsamples((1,) * n1, (1,) * n2, k1, k2))
        clean = [not any(tokens[:r1]) and not any(patches[:r2]) for tokens, patches in copies]
        assert Subsampling(n1, k1, n2, k2).overlap(r1, r2) == Fraction(sum(clean), len(copies))


def test_the_worst_case_is_exact_and_falls_with_the_budget():
    subsampling = Subsampling(16, 8, 16, 8)
    assert subsampling.worst_case(0.75, 1, 0) == Fraction(1, 4)
    assert subsampling.worst_case(0.5, 1, 0) == 0
    assert subsampling.worst_case(0.9, 0, 0) == Fraction(0.9)
    values = [subsampling.worst_case(0.9, r, 0) for r in range(10)]
    assert values == sorted(values, reverse=True)


def test_a_change_of_all_patches_leaves_nothing():
    for kept in range(1, 17):
        assert Subsampling(16, 16, 16, kept).overlap(0, 16) == 0


@pytest.mark.parametrize(("changed", "text"), [((17, 0), "tokens must lie in 0..16, got 17"), ((0, -1), "got -1")])
def test_more_changes_than_elements_are_refused(changed, text):
    with pytest.raises(ValueError, match=text):
        Subsampling(16, 8, 16, 8).overlap(*changed)


# the noise


@pytest.mark.parametrize(("region", "patch", "ratio"), [("all", 2, 0.5), ("suffix", 4, 0.5), ("all", 1, 0.2)])
def test_copies_keep_exactly_so_many_elements_each_equally_likely(region, patch, ratio):
    setting = Setting(region, patch, ratio, ratio)
    mask = setting.mask(demo.suffix_mask())
    subsampling, copies = setting.subsampling(demo.suffix_mask()), 4000
    tokens, image = np.arange(1, 17, dtype=np.int32), np.ones((8, 8, 1), np.float32)
    keys = jax.random.split(jax.random.key(0), copies)

    def copy(key):
        kept = np.int32(subsampling.kept_tokens), np.int32(subsampling.kept_patches)
        return mmcert.subsampled(key, tokens, image, mask, 8 // patch, *kept)

    noisy, images = (np.asarray(part) for part in jax.jit(jax.vmap(copy))(keys))
    kept = noisy == tokens
    assert set(np.unique(noisy[~kept])) == {demo.PAD}
    assert kept[:, ~mask].all()
    assert set(kept[:, mask].sum(axis=1)) == {subsampling.kept_tokens}
    blocks = images.reshape(copies, 8 // patch, patch, 8 // patch, patch).transpose(0, 1, 3, 2, 4)
    blocks = blocks.reshape(copies, subsampling.patches, -1)
    whole = blocks.all(axis=2)
    assert np.all(whole | ~blocks.any(axis=2))
    assert set(whole.sum(axis=1)) == {subsampling.kept_patches}
    for found, share in (
        (kept[:, mask].mean(axis=0), subsampling.kept_tokens / subsampling.tokens),
        (whole.mean(axis=0), subsampling.kept_patches / subsampling.patches),
    ):
        np.testing.assert_array_less(abs(found - share), 5 * np.sqrt(share * (1 - share) / copies))


def test_token_and_patch_draws_are_independent_of_each_other():
    setting, copies = Setting("all", 2, 0.5, 0.5), 4000
    tokens, image = np.arange(1, 17, dtype=np.int32), np.ones((8, 8, 1), np.float32)
    keys = jax.random.split(jax.random.key(1), copies)
    mask = setting.mask(demo.suffix_mask())
    copy = lambda key: mmcert.subsampled(key, tokens, image, mask, 4, np.int32(8), np.int32(8))
    noisy, images = (np.asarray(part) for part in jax.jit(jax.vmap(copy))(keys))
    both = ((noisy[:, 0] != 0) & (images[:, 0, 0, 0] != 0)).mean()
    assert abs(both - 0.25) < 5 * np.sqrt(0.1875 / copies)


def test_kept_numbers_are_the_rounded_ratios_and_never_none():
    suffix = demo.suffix_mask()
    assert Setting("all", 2, 0.05, 0.5).subsampling(suffix) == Subsampling(16, 1, 16, 8)
    assert Setting("suffix", 1, 0.05, 0.05).subsampling(suffix) == Subsampling(8, 1, 64, 3)
    full = np.zeros(16, bool)
    assert Setting("suffix", 4, 0.5, 0.5).subsampling(full) == Subsampling(0, 0, 4, 2), "a text without room behind it"


def test_no_more_elements_are_changed_than_there_are():
    assert Subsampling(1, 1, 4, 2).attack(2, None) == (1, 4)
    assert Subsampling(8, 4, 4, 2).attack(2, 1) == (2, 1)


@pytest.mark.parametrize(("height", "width", "grid"), [(12, 9, 4), (28, 28, 8), (5, 16, 4)])
def test_patches_of_a_picture_of_any_size_are_blocks_of_about_the_same_size(height, width, grid):
    tokens, image = np.ones(3, np.int32), np.ones((height, width, 3), np.float32)
    keep = grid * grid - 1
    _, shown = mmcert.subsampled(jax.random.key(0), tokens, image, np.ones(3, bool), grid, np.int32(3), np.int32(keep))
    rows, columns, _ = np.nonzero(np.asarray(shown) == 0)
    sides = [np.unique(part) for part in (rows, columns)]
    assert len(rows) == 3 * sides[0].size * sides[1].size, "one whole block is black"
    for found, side in zip(sides, (height, width), strict=True):
        assert side // grid <= found.size <= -(-side // grid)


# the result


def test_keeping_everything_is_the_guard_itself(record):
    inputs = demo.held_out_unsafe(3)
    expected = np.asarray(DemoGuard.load()(inputs.tokens, inputs.images)).mean()
    assert record["rows"][0]["mean_score"] == expected == 1


def test_certified_shares_follow_from_the_counts(finished, record):
    for setting, row in zip(ROWS, record["rows"], strict=True):
        with np.load(finished / f"counts-{setting.name}.npz") as file:
            p_a = np.asarray(hrs.clopper_pearson(file["successes"], 30, 0.01))
        subsampling = setting.subsampling(demo.suffix_mask())
        for threat, share, need in zip(mmcert.THREATS, row["certified"], row["required_p_a"], strict=True):
            patches = 16 if threat[1] is None else threat[1]
            assert need == pytest.approx(1 - float(subsampling.overlap(threat[0], patches)) + common.TAU)
            assert share == np.mean(p_a > need)


def test_nothing_is_certified_against_an_l2_attacker(record):
    for row in record["rows"]:
        for threat in ((0, None), (1, None)):
            assert row["certified"][mmcert.THREATS.index(threat)] == 0


def test_a_figure_is_written(finished):
    assert (finished / "mmcert.png").read_bytes().startswith(b"\x89PNG")
    assert 20_000 < (finished / "mmcert.png").stat().st_size < 150_000


def test_a_second_call_draws_nothing_and_gives_the_same_result(finished, record, tmp_path, monkeypatch):
    for path in finished.glob("counts-*.npz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(mmcert, "Votes", None)
    monkeypatch.setattr(mmcert, "draw_figure", lambda *_: None)
    assert mmcert.main(["--out", str(tmp_path), *FLAGS]) == 0
    assert json.loads((tmp_path / "result.json").read_text()) == record


def test_more_copies_extend_the_same_sample(monkeypatch, tmp_path):
    monkeypatch.setattr(common, "BATCH", 30)
    few, many = (flags("--samples", str(n), "--inputs", "2", "--out", str(tmp_path)) for n in (30, 45))
    subject = open_subject(few)
    for number in range(2):
        votes = [mmcert.Votes(subject, ROWS[1], args)(number) for args in (few, many)]
        assert votes[0] <= votes[1] <= votes[0] + 15


def flags(*given):
    return parsed(mmcert.parser(), given)


def test_a_finished_result_is_never_overwritten(finished, capsys):
    before = (finished / "result.json").read_bytes()
    assert mmcert.main(["--out", str(finished), *FLAGS, "--seed", "3"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert (finished / "result.json").read_bytes() == before
