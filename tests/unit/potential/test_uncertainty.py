"""Calibration: intervals that hold what they promise."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mlip.potential.uncertainty import (
    Calibration,
    Residuals,
    Spread,
    energy_spread,
    fit_calibration,
    force_spread,
    pool_residuals,
)


def sample(rng: np.random.Generator, n: int, overconfidence: float, symbol: str = "Si") -> tuple[list, ...]:
    """Structures of four atoms whose errors exceed the members' spread by ``overconfidence``."""
    symbols, forces, energies, forces_members, energy_members = [], [], [], [], []
    for _ in range(n):
        width = rng.uniform(0.02, 0.2, size=4)
        members = rng.normal(0, 1, (6, 4, 3)) * width[:, None]
        truth = members.mean(0) + overconfidence * width[:, None] * rng.normal(size=(4, 3))
        energy = rng.normal(0, 0.1, 6)
        symbols.append([symbol] * 4)
        forces.append(truth)
        energies.append(energy.mean() + overconfidence * 0.1 * rng.normal())
        forces_members.append(members)
        energy_members.append(energy)
    return symbols, forces, energies, forces_members, energy_members


def residuals_of(symbols: list, forces: list, energies: list, forces_members: list, energy_members: list) -> Residuals:
    return pool_residuals(
        symbols,
        [m.mean(0) - f for m, f in zip(forces_members, forces, strict=True)],
        [m.mean() - e for m, e in zip(energy_members, energies, strict=True)],
        [Spread.of_members(e, f) for e, f in zip(energy_members, forces_members, strict=True)],
    )


@pytest.mark.parametrize("overconfidence", [0.3, 1.0, 4.0])
def test_intervals_cover_new_errors(overconfidence: float) -> None:
    rng = np.random.default_rng(0)
    calibration = fit_calibration(residuals_of(*sample(rng, 60, overconfidence)))
    symbols, forces, energies, forces_members, energy_members = sample(rng, 300, overconfidence)
    inside = [
        np.abs(m.mean(0) - f) <= 1.96 * calibration.scale_forces(s, force_spread(m))
        for s, f, m in zip(symbols, forces, forces_members, strict=True)
    ]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)
    ratio = [
        (m.mean() - e) / calibration.scale_energy(energy_spread(m))
        for e, m in zip(energies, energy_members, strict=True)
    ]
    assert np.mean(np.abs(ratio) < 1.96) > 0.85


def test_elements_have_their_own_scale_when_there_are_enough_atoms() -> None:
    rng = np.random.default_rng(1)
    parts = [sample(rng, 40, 1.0, "Na"), sample(rng, 40, 5.0, "Cl"), sample(rng, 2, 1.0, "H")]
    merged = [[entry for part in parts for entry in part[k]] for k in range(5)]
    scale = fit_calibration(residuals_of(*merged)).force_scale
    assert scale["Cl"] > 3 * scale["Na"]
    assert scale["Na"] < scale["H"] <= scale["Cl"]


def test_few_or_training_data_give_wider_intervals() -> None:
    residuals = residuals_of(*sample(np.random.default_rng(2), 3, 1.0))
    honest, inflated = fit_calibration(residuals), fit_calibration(residuals, source="training")
    assert inflated.force_scale["Si"] == pytest.approx(1.5 * honest.force_scale["Si"])
    assert inflated.energy_scale > honest.energy_scale
    assert inflated.source == "training"


def test_atoms_without_a_spread_count_for_nothing() -> None:
    """Their errors are zero by symmetry, too: with them the others' uncertainty would be switched off."""
    some = residuals_of(*sample(np.random.default_rng(2), 30, 1.0))
    still = [np.zeros((40, 3))]
    symmetric = residuals_of([["Si"] * 40], still, [0.0], [np.zeros((6, 40, 3))], [np.zeros(6)])
    merged = Residuals(*(np.concatenate((getattr(some, k), getattr(symmetric, k))) for k in vars(some)))
    assert fit_calibration(merged).force_scale == fit_calibration(some).force_scale
    assert fit_calibration(symmetric) == Calibration()


def test_ranks_errors() -> None:
    calibration = fit_calibration(residuals_of(*sample(np.random.default_rng(3), 100, 1.0)))
    assert 0.3 < calibration.spearman < 1.0
    assert calibration.coverage == pytest.approx(0.95, abs=0.01)


def test_agreeing_members_do_not_claim_certainty_after_calibration() -> None:
    calibration = fit_calibration(residuals_of(*sample(np.random.default_rng(4), 20, 1.0)))
    assert (calibration.scale_forces(["Si"], np.zeros(1)) > 0).all()


def test_survives_json() -> None:
    calibration = fit_calibration(residuals_of(*sample(np.random.default_rng(5), 20, 1.0)))
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration
    assert Calibration.from_json(json.loads(json.dumps(Calibration().to_json()))) == Calibration()
