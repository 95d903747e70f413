"""Results: what is known about inputs, as typed columns from counts to page, and the files that hold it."""

from typing import TYPE_CHECKING

from hybrid_rs_jax._lazy import lazy_names

if TYPE_CHECKING:
    from hybrid_rs_jax.results.certificate import Certificate, Decisions, certify, certify_counts, certify_decisions
    from hybrid_rs_jax.results.classes import ClassCertificate, certify_class_counts, certify_classes
    from hybrid_rs_jax.results.counts import Counts, read_counts
    from hybrid_rs_jax.results.files import read_certificates
    from hybrid_rs_jax.results.result import Result, Row
    from hybrid_rs_jax.results.statement import Statement

__all__ = [
    "Certificate",
    "ClassCertificate",
    "Counts",
    "Decisions",
    "Result",
    "Row",
    "Statement",
    "certify",
    "certify_class_counts",
    "certify_classes",
    "certify_counts",
    "certify_decisions",
    "read_certificates",
    "read_counts",
]

_HOMES = {
    "certificate": "Certificate Decisions certify certify_counts certify_decisions",
    "classes": "ClassCertificate certify_class_counts certify_classes",
    "counts": "Counts read_counts",
    "files": "read_certificates",
    "result": "Result Row",
    "statement": "Statement",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
