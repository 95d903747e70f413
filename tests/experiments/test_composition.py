"""Composition of unimodal certificates: the counterexample by enumeration, and the refuted claims of the inputs."""

import itertools
import json
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest

import hybrid_rs_jax as hrs

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import _common as common
import composition

FLAGS = ["--samples", "150", "--inputs", "3"]
EPSILONS = np.array([0.05, 0.4, 0.75, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 2.0])


@pytest.fixture(scope="module", autouse=True)
def _few_budgets():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composition, "EPSILONS", EPSILONS)
        patch.setattr(composition, "BUDGETS", (1, 2, 3))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    assert composition.main(["--out", str(folder), *FLAGS]) == 0
    return folder


@pytest.fixture(scope="module")
def record(finished):
    return json.loads((finished / "result.json").read_text())


@pytest.fixture(scope="module")
def example():
    return composition.counterexample(**composition.EXAMPLE)


class Grid:
    """All base classifiers on 2 symbols x 6 intervals of z: accepted sets of cells, with their masses under four laws.

    The inner edges are the cuts of the optimal classifier and of the best separable one, and some others, so that both
    are among the 4,096 sets.
    """

    def __init__(self, example):
        self.cells = list(itertools.product(range(2), range(6)))
        rho = example["rho"]
        separable = float(mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(example["p_a"]) - 1))
        edges = [-mpmath.inf, *sorted([*example["classifier"]["cut"], separable, 0.35, 2.3]), mpmath.inf]
        clean = [mpmath.ncdf(b) - mpmath.ncdf(a) for a, b in itertools.pairwise(edges)]
        moved = [mpmath.ncdf(b - rho) - mpmath.ncdf(a - rho) for a, b in itertools.pairwise(edges)]
        self.sets = np.array(list(itertools.product([0.0, 1.0], repeat=12)))
        self.mass = {
            (text, image): self.sets @ np.array([float(law[s] * z[i]) for s, i in self.cells])
            for text, law in (("clean", example["p"]), ("attacked", example["q"]))
            for image, z in (("clean", clean), ("attacked", moved))
        }
        self.feasible = self.mass["clean", "clean"] >= example["p_a"] - 1e-12

    @property
    def separable(self):
        """Sets {symbol ratio <= t1} and {z <= t2}: of {a} or {a, b}, and an initial part of the intervals."""
        cells = self.sets.reshape(-1, 2, 6)
        initial = np.all(np.diff(cells, axis=2) <= 0, axis=2).all(axis=1)
        return initial & ((cells[:, 1] == cells[:, 0]).all(axis=1) | (cells[:, 1] == 0).all(axis=1))


@pytest.fixture(scope="module")
def grid(example):
    return Grid(example)


def test_no_base_classifier_falls_below_the_worst_cases(example, grid):
    for field, law in (
        ("text_only", ("attacked", "clean")),
        ("image_only", ("clean", "attacked")),
        ("joint", ("attacked", "attacked")),
    ):
        assert grid.mass[law][grid.feasible].min() >= example[field][0] - 1e-12


def test_the_joint_worst_case_is_attained_by_the_classifier_that_is_given(example, grid):
    least = grid.mass["attacked", "attacked"][grid.feasible].min()
    assert least == pytest.approx(example["joint"][1], abs=1e-12)
    assert least == pytest.approx(example["classifier"]["attacked_score"], abs=1e-12)
    assert example["joint"][0] <= least + 1e-12


def test_no_separable_region_attains_it(example, grid):
    least = grid.mass["attacked", "attacked"][grid.feasible & grid.separable].min()
    assert least == pytest.approx(example["best_separable_region"], abs=1e-12)
    assert least > example["joint"][1] + 0.1


def test_both_unimodal_certificates_hold_and_the_joint_claim_is_false(example):
    assert example["both_unimodal_certified"]
    assert example["joint_refuted"]
    assert example["joint"][1] < example["tau"] < min(example["text_only"][0], example["image_only"][0])


def test_the_classifier_has_the_scores_that_are_stated(example):
    with mpmath.workdps(40):
        for law, shift, score, bound in (
            (example["p"], 0, "clean_score", example["p_a"]),
            (example["q"], example["rho"], "attacked_score", None),
        ):
            cuts = [mpmath.mpf(cut) - shift for cut in example["classifier"]["cut"]]
            exact = sum(mpmath.mpf(mass) * mpmath.ncdf(cut) for mass, cut in zip(law, cuts, strict=True))
            assert float(exact) == pytest.approx(example["classifier"][score], abs=1e-14)
            assert bound is None or exact >= bound - mpmath.mpf(10) ** -15


@pytest.mark.parametrize(
    ("beta", "p_a", "rho"), [(0.1, 0.5, 0.5), (0.3, 0.69, 2.0), (0.45, 0.95, 0.3), (0.2, 0.99, 3.0)]
)
def test_joint_is_at_most_separable_is_at_most_image_only(beta, p_a, rho):
    found = composition.counterexample(beta, p_a, rho, 0.01)
    assert found["joint"][0] <= found["best_separable_region"] + 1e-12
    assert found["best_separable_region"] <= found["image_only"][1] + 1e-12
    assert found["classifier"]["attacked_score"] == pytest.approx(found["joint"][0], abs=1e-9)


def bounds_of(folder, name):
    with np.load(folder / f"counts-{name}.npz") as file:
        return np.asarray(hrs.clopper_pearson(file["successes"][0], 150, 0.01))


@pytest.mark.parametrize(("way", "text", "image"), [("slices", "hybrid", "hybrid"), ("runs", "text", "image")])
def test_refuted_claims_are_those_beyond_the_joint_frontier(finished, record, way, text, image):
    kernel, tau = hrs.UniformKernel(0.25, 512), common.TAU
    hybrid, image_only = hrs.HybridSmoothing(kernel, 0.25), hrs.HybridSmoothing(None, 0.25)
    p, p_text, p_image = (bounds_of(finished, name) for name in ("hybrid", text, image))
    claims = refuted = 0
    share = np.zeros((3, 10))
    for i in range(3):
        allowed = hrs.certified_radius(float(p_image[i]), 0, image_only, tau)
        for d in range(1, 4):
            fine = hrs.certified_radius(float(p_text[i]), d, hrs.HybridSmoothing(kernel, None), tau) >= 0
            joint = hrs.certified_radius(float(p[i]), d, hybrid, tau)
            for j, eps in enumerate(record["epsilons"]):
                claimed = fine and eps <= allowed
                claims += claimed
                refuted += claimed and eps > joint
                share[d - 1, j] += (claimed and eps > joint) / 3
    found = record["composition"][way]
    assert (found["claims"], found["claims_refuted"]) == (claims, refuted)
    assert 0 < refuted < claims
    assert found["claims_proven"] == claims - refuted
    np.testing.assert_allclose(found["refuted_share_of_inputs"], share, atol=1e-12)
    assert record["composition"]["open"] == 0


def test_the_worst_classifiers_image_only_score_is_that_of_its_threshold(finished):
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 512), 0.25)
    certificate = hrs.certify([140], 150, smoothing, common.TAU, 0.01, (0, *composition.BUDGETS))
    found = composition.image_score_of_worst(certificate)[0]
    law = smoothing.likelihood_ratios(1)[0]
    atoms = list(zip(np.asarray(law.log_ratio).tolist(), np.exp(np.asarray(law.log_p)).tolist(), strict=True))
    for j in (0, 3, 9):
        rho = composition.EPSILONS[j] / 0.25

        def accepted(c, rho=rho):
            return sum(p * mpmath.ncdf((c - ratio) / rho + rho / 2) for ratio, p in atoms)

        c = mpmath.findroot(lambda c: accepted(c) - certificate.p_a[0], (-40, 40), solver="anderson", tol=1e-20)
        assert found[0, j] == pytest.approx(float(mpmath.ncdf((c - atoms[0][0]) / rho + rho / 2)), abs=1e-9)
        assert found[0, j] >= certificate.p_a[0]


def test_a_figure_is_written(finished):
    assert (finished / "composition.png").read_bytes().startswith(b"\x89PNG")
    assert 20_000 < (finished / "composition.png").stat().st_size < 150_000


def test_a_second_call_draws_nothing_and_gives_the_same_result(finished, record, tmp_path, monkeypatch):
    for path in finished.glob("counts-*.npz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(hrs, "sample_counts", None)
    monkeypatch.setattr(composition, "draw_figure", lambda *_: None)
    assert composition.main(["--out", str(tmp_path), *FLAGS]) == 0
    assert json.loads((tmp_path / "result.json").read_text()) == record


def test_a_finished_result_is_never_overwritten(finished, capsys):
    before = (finished / "result.json").read_bytes()
    assert composition.main(["--out", str(finished), *FLAGS, "--seed", "3"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert (finished / "result.json").read_bytes() == before
