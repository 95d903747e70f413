"""Feature runs and their certificates: typed from the ledger to the file (method section 11)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hybrid_rs_jax._text import counted, mean, setting_text
from hybrid_rs_jax.certificate import FeatureCertificate, SimilarityTarget, certify_features
from hybrid_rs_jax.confidence import StagedLooks, plan_from
from hybrid_rs_jax.confidence.score_law import ScoreLaw, score_edges
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.results.building import noise_of_run, threat_of_run
from hybrid_rs_jax.results.facts import Facts, thawed
from hybrid_rs_jax.results.runs import Run
from hybrid_rs_jax.results.sentences import attacker
from hybrid_rs_jax.sampling.ledger import Ledger, Stream

__all__ = ["FeatureCurve", "FeatureRun", "feature_columns", "feature_curve", "feature_record", "read_feature_run"]


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureRun:
    """The laws that a run of `hybrid-rs features sample` holds.

    Attributes:
      ids: names of the inputs whose draws are complete, B of them.
      law: their histograms, [B, bins], with the plan of looks where they were drawn for a target.
      run: noise, draws, encoder and data of the run.
      reference: "clean" or "pairs".
      target: what the draws were for; None: their number was fixed.
      skipped: (id, reason) of the inputs that the run gave up; unfinished: ids of those with draws left to do.
    """

    ids: tuple[str, ...]
    law: ScoreLaw
    run: Run
    reference: str
    target: SimilarityTarget | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    unfinished: tuple[str, ...] = ()

    @property
    def total_variation(self) -> float:
        """Distance between the noise drawn for a score and the ideal one: a pair takes two noisy copies."""
        return _total_variation(self.run, self.reference)

    def statement(self, certificate: FeatureCertificate) -> str:
        """What is promised, with what the sampler did."""
        noise = noise_of_run(self.run.smoothing, self.run)
        may = attacker(noise, threat_of_run(self.run.smoothing, self.run), certificate.budgets, distance="eps")
        return (
            f"{certificate.statement} Each cosine was lowered by more than its rounding before it was counted. The "
            f"attacker: {may}."
        )

    def certify(self, alpha: float, budgets: Sequence[int]) -> FeatureCertificate:
        """The certificate of its laws."""
        delta = self.total_variation
        with library_sentences():
            return certify_features(
                self.law, self.run.smoothing, alpha, budgets, reference=self.reference, total_variation=delta
            )


def read_feature_run(folder: Path) -> FeatureRun:
    """The laws of a run folder.

    Raises:
      BadInputError: if it is no feature run, was extended after a look at its draws, or holds no complete input.
    """
    with library_sentences(), Ledger.open(folder) as ledger:
        run, counts, history = Run.of(ledger.path, ledger.header), ledger.counts(), ledger.history
    settings = run.facts.get("features")
    if not isinstance(settings, Facts):
        raise BadInputError(f"{folder} is no run of `hybrid-rs features sample`; `hybrid-rs certify` reads it.")
    bins, reference = settings.get("bins"), settings.get("reference")
    if not isinstance(bins, int) or reference not in ("clean", "pairs") or run.samples is None:
        raise BadInputError(f"{folder} does not say its bins, reference and number of draws in its header.")
    if len({header.get("samples") for header in history}) > 1:
        raise BadInputError(
            f"{folder} was extended to n = {run.samples:,}: a law is bounded for a number of draws that was fixed "
            "beforehand; draw a new run."
        )
    with library_sentences():
        target, plan = _aim(run, settings)
    law = Stream("law", (bins,))
    table = counts.streams.get(law)
    complete = np.zeros(0, bool)
    if table is not None:
        complete = table.contiguous & (table.draws == run.samples)
        if target is not None and plan is not None:
            # at an earlier look only what has reached its target is done; the others have draws left to do
            early = np.flatnonzero(table.contiguous & np.isin(table.draws, plan.sizes[:-1]))
            if early.size:
                stopped = ScoreLaw(table.counts[early], score_edges(bins), plan)
                delta = _total_variation(run, str(reference))
                complete[early] = target.reached(stopped, run.smoothing, total_variation=delta)
    names = [] if table is None else [counts.ids[key] for key in table.index.tolist()]
    unfinished = [name for name, done in zip(names, complete.tolist(), strict=True) if not done] + counts.undrawn
    if table is None or not complete.any():
        raise BadInputError(
            f"{folder} holds no finished input yet: {counted(len(unfinished), 'input')} unfinished, "
            f"{len(counts.skipped)} skipped; `hybrid-rs features sample --resume` continues it."
        )
    return FeatureRun(
        ids=tuple(name for name, done in zip(names, complete.tolist(), strict=True) if done),
        law=ScoreLaw(table.counts[complete], score_edges(bins), plan),
        run=run,
        reference=str(reference),
        target=target,
        skipped=tuple(counts.skipped),
        unfinished=tuple(unfinished),
    )


def _total_variation(run: Run, reference: str) -> float:
    return run.total_variation * (2 if reference == "pairs" else 1)


def _aim(run: Run, settings: Facts) -> tuple[SimilarityTarget | None, StagedLooks | None]:
    """What a run was drawn for, and its looks; neither where the number of draws was fixed.

    Raises:
      ValueError: if the header holds one without the other, or what is none.
    """
    described = settings.get("target")
    plan = None if run.plan is None else plan_from(run.plan)
    looks = plan if isinstance(plan, StagedLooks) else None
    if described is None and looks is None:
        return None, None
    if not isinstance(described, Facts) or looks is None or looks.max_samples != run.samples:
        raise ValueError(
            "A feature run with a target must name its looks, up to its number of draws, and no other one."
        )
    return SimilarityTarget.of(described), looks


def feature_columns(
    ids: Sequence[str], certificate: FeatureCertificate, epsilons: Sequence[float], similarity: float
) -> dict[str, np.ndarray | tuple[str, ...]]:
    """`id, n`, the certified radius for each budget, and the certified cosine for each eps and budget; arrays [B]."""
    columns: dict[str, np.ndarray | tuple[str, ...]] = {"id": tuple(ids), "n": certificate.law.n}
    radius = certificate.radius(similarity)
    columns |= {f"radius_{d}": radius[:, j] for j, d in enumerate(certificate.budgets)}
    for epsilon in epsilons:
        found = certificate.similarity(epsilon)
        columns |= {f"cosine_{setting_text(epsilon)}_{d}": found[:, j] for j, d in enumerate(certificate.budgets)}
    return columns


def feature_record(
    source: FeatureRun, certificate: FeatureCertificate, epsilons: Sequence[float], similarity: float
) -> dict[str, object]:
    """The statement and one object per input, for JSON."""
    radius = certificate.radius(similarity).tolist()
    cosine = np.stack([certificate.similarity(epsilon) for epsilon in epsilons], axis=1).tolist() if epsilons else None
    draws = certificate.law.n.tolist()
    rows = [
        {"id": name, "n": draws[i], "radius": radius[i], **({} if cosine is None else {"similarity": cosine[i]})}
        for i, name in enumerate(source.ids)
    ]
    facts = {name: thawed(value) for name, value in source.run.facts.items()}
    kept: tuple[str, ...] = (
        "smoothing",
        "sigma_unit",
        "eligible_positions",
        "seed",
        "dtype",
        "classifier",
        "data",
        "noise",
        "features",
    )
    kept += ("plan",) if source.target is not None else ()
    statement = {
        "text": source.statement(certificate),
        "similarity": similarity,
        "epsilon": list(epsilons),
        "budgets": list(certificate.budgets),
        "alpha": certificate.alpha,
        "reference": certificate.reference,
        "samples": source.run.samples,
        "bins": certificate.law.edges.size - 1,
        "total_variation": certificate.total_variation,
        **{name: facts[name] for name in kept if name in facts},
    }
    return {
        "statement": statement,
        "certificates": rows,
        "skipped": [{"id": name, "reason": reason} for name, reason in source.skipped],
        "unfinished": list(source.unfinished),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureCurve:
    """Certified cosine against eps, over B inputs, at one budget.

    Averages take 0 where nothing is certified: a negative bound says nothing of a cosine.

    Attributes:
      epsilon: float64[E].
      law, mean: mean certified cosine from the law of the score and from its mean alone, float64[E].
      law_share, mean_share: share of the inputs with a certified cosine, float64[E].
    """

    epsilon: np.ndarray
    law: np.ndarray
    mean: np.ndarray
    law_share: np.ndarray
    mean_share: np.ndarray

    def columns(self) -> dict[str, list[float]]:
        """The fields by their names."""
        return {field.name: getattr(self, field.name).tolist() for field in dataclasses.fields(self)}

    def rows(self) -> Iterator[tuple[float, ...]]:
        """One per eps, in the order of the fields."""
        yield from zip(*self.columns().values(), strict=True)


def feature_curve(certificate: FeatureCertificate, epsilons: Sequence[float], budget: int = 0) -> FeatureCurve:
    """The curve of a certificate; all of it holds at once, at the certificate's own risk per input."""
    place = certificate.budgets.index(budget)
    both = [
        np.stack([bound(float(epsilon))[:, place] for epsilon in epsilons])
        for bound in (certificate.similarity, certificate.mean_similarity)
    ]
    means = [np.array([mean(row) for row in x.tolist()]) for x in both]
    shares = [(x >= 0).mean(axis=1) for x in both]
    return FeatureCurve(np.asarray(epsilons, np.float64), means[0], means[1], shares[0], shares[1])
