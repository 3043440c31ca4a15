"""What audits tell of a potential: the certificate of each starting structure, from labels and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlip.active.certificate import AuditedIteration, Certificate, certify
from mlip.io.files import read_json
from mlip.potential.interface import Prediction
from mlip.structures.labelled import labelled_forces

Populations = Sequence[Mapping[str, Mapping[str, float]]]
"""Of each iteration, by starting structure, the frames that audits were drawn from: how many (``n_frames``), their mean
expected squared error at that time (``expected``, (eV/Å)²), and the audits drawn (``n_audits``)."""

UNKNOWN = 0.5
"""Stands for the chance and the expected error of an audit without a label, which count for nothing."""


def read_error_ratios(training: Path) -> dict[int | None, float]:
    """:func:`error_ratios` of the file ``training.json``."""
    return error_ratios(read_json(training))


def error_ratios(trained: Mapping[str, Any]) -> dict[int | None, float]:
    """Error over expected error on held-out data, by starting structure, and under None of all together.

    ``trained`` is what ``training.json`` says.
    """
    found = trained.get("uncertainty", {}).get("error_over_expected", {})
    return {None: float(found.get("all", 1.0))} | {int(k): float(v) for k, v in found.get("structures", {}).items()}


def squared_errors(structures: Sequence[Atoms], predictions: Sequence[Prediction]) -> np.ndarray:
    """Mean squared force error per component of each structure, [n_structures], (eV/Å)²."""
    pairs = zip(structures, predictions, strict=True)
    return np.array([np.mean((labelled_forces(atoms) - p.forces) ** 2) for atoms, p in pairs])


def expected_squares(
    structures: Sequence[Atoms], predictions: Sequence[Prediction], ratios: Mapping[int | None, float]
) -> np.ndarray:
    """What these are expected to be, [n_structures], (eV/Å)²: the predicted variance times the squared ``ratios``.

    ``ratios`` are those of error over expected error by starting structure, under None of all together.
    """
    sources = [int(atoms.info.get("source", 0)) for atoms in structures]
    factors = np.array([ratios.get(source, ratios.get(None, 1.0)) for source in sources])
    return factors**2 * np.array([np.mean(p.forces_std**2) for p in predictions])


def certify_sources(
    audits: Sequence[Atoms],
    predictions: Sequence[Prediction],
    ratios: Mapping[int | None, float],
    populations: Populations,
    *,
    surprises: Mapping[int, Sequence[float]],
    confidence: float,
) -> dict[int, Certificate]:
    """The certificate of each starting structure that was explored.

    Args:
        audits: All labelled ones, never trained on, with ``source``, ``iteration`` (that labelled them, one after the
            one that drew them), ``audit_probability`` and ``expected_squared_error`` in ``info``.
        predictions: Of the potential to be judged.
        ratios: See :func:`expected_squares`.
        populations: What was drawn from, of each iteration up to the latest with labels.
        surprises: By starting structure, squared error over the expected one of other new labels.
        confidence: That all bounds of all looks hold together.
    """
    squared, expected = squared_errors(audits, predictions), expected_squares(audits, predictions, ratios)
    found = {}
    for source in sorted({int(name) for population in populations for name in population}):
        iterations = []
        for number, population in enumerate(populations):
            entry = population.get(str(source))
            rows = [
                k
                for k, atoms in enumerate(audits)
                if int(atoms.info.get("source", 0)) == source and int(atoms.info["iteration"]) == number + 1
            ]
            if entry is not None and entry["n_frames"]:
                iterations.append(_audited([audits[k] for k in rows], squared[rows], expected[rows], entry))
        if iterations:
            rest = surprises.get(source, ())
            found[source] = certify(iterations, surprises=rest, confidence=confidence)
    return found


def _audited(
    audits: Sequence[Atoms], squared: np.ndarray, expected: np.ndarray, population: Mapping[str, float]
) -> AuditedIteration:
    """One iteration's audits; those without a label are there as such.

    What the present potential expects of all frames is what the former did, times what the audits say has changed:
    the ratio estimator of survey sampling (W. G. Cochran, Sampling Techniques, chapter 6), for no frame is predicted
    twice for this.
    """
    chances = np.array([float(atoms.info["audit_probability"]) for atoms in audits])
    before = np.array([float(atoms.info["expected_squared_error"]) for atoms in audits])
    change = float(np.sum(expected / chances) / np.sum(before / chances)) if len(audits) and before.sum() > 0 else 1.0
    missing = max(0, int(population["n_audits"]) - len(audits))
    unlabelled = np.full(missing, UNKNOWN)
    return AuditedIteration(
        np.concatenate([squared, np.full(missing, np.nan)]),
        np.concatenate([np.maximum(expected, 1e-12), unlabelled]),
        np.concatenate([chances, unlabelled]),
        int(population["n_frames"]),
        change * float(population["expected"]),
    )


def summarise_certificates(
    certificates: Mapping[int, Certificate], rms_forces: Mapping[int, float]
) -> dict[str, Any] | None:
    """Of all starting structures together: the worst estimate and bound, and why there is none; None without any.

    ``rms_forces`` are those of their training labels, eV/Å; ``relative_upper`` is the largest bound over them.
    """
    audited = [c for c in certificates.values() if c.estimate is not None]
    if not audited:
        return None
    worst = max(audited, key=lambda c: c.estimate or 0.0)
    refused = {source: c.refused for source, c in certificates.items() if c.refused}
    uppers = [c.upper for c in certificates.values() if c.upper is not None]
    upper = max(uppers) if uppers and not refused else None
    shares = [c.upper / rms_forces[source] for source, c in certificates.items() if c.upper and source in rms_forces]
    return {
        "n_structures": sum(c.n_audits for c in certificates.values()),
        "n_failed": sum(c.n_failed for c in certificates.values()),
        "force_rmse": worst.estimate,
        "interval": [0.0, upper] if upper is not None else [None, None],
        "relative_upper": max(shares) if upper is not None and len(shares) == len(certificates) else None,
        "confidence": worst.confidence,
        "refused": "; ".join(f"structure {source}: {text}" for source, text in refused.items()),
        "certificates": {str(source): certificate.as_dict() for source, certificate in certificates.items()},
    }
