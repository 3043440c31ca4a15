"""Elastic constants of silicon by GPAW obey the identity of diamond between C44, the optical phonon and zeta."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.build import bulk

from mlip.config.label import Label
from mlip.labels.calculator import StoredCalculator
from mlip.properties.elastic.cubic import elastic_cubic

pytestmark = [pytest.mark.gpaw, pytest.mark.slow]
pytest.importorskip("gpaw")


def test_gap_of_c44_of_silicon() -> None:
    """C44_clamped - C44_relaxed = m w^2 zeta^2 / (8 a); a coarse k-point mesh does not spoil it."""
    from gpaw import GPAW

    a = 5.47
    silicon = bulk("Si", a=a)
    calculator = GPAW(
        mode={"name": "pw", "ecut": 250},
        xc="PBE",
        kpts={"size": (3, 3, 3), "gamma": True},
        convergence={"forces": 1e-3},
        symmetry="off",
        txt=None,
    )
    found = elastic_cubic(silicon, calculator, strain=0.01, fmax=0.01)
    forces = []
    for sign in (1, -1):
        moved = silicon.copy()
        moved.positions[1, 0] += sign * 0.01
        moved.calc = calculator
        forces.append(moved.get_forces()[1, 0])
    constant = -(forces[0] - forces[1]) / 0.02
    omega_squared = constant / (silicon.get_masses()[0] / 2)
    assert 14 < np.sqrt(omega_squared) / (2 * np.pi) * units.second * 1e-12 < 17  # THz; PBE: 15.1
    gap = silicon.get_masses()[0] * omega_squared * found.kleinman_zeta**2 / (8 * a) / units.GPa
    assert found.c44_clamped - found.c44_relaxed == pytest.approx(gap, rel=0.05)
    assert 0.4 < found.kleinman_zeta < 0.7


def test_c44_of_silicon_is_the_published_setting_s(tmp_path: Path) -> None:
    """PBE, PW 400, Gamma-centred 8x8x8: 99.6 -> 74.3 GPa and zeta .512 by an independent calculation."""
    settings = Label(
        calculator="gpaw",
        parameters={
            "mode": {"name": "pw", "ecut": 400},
            "xc": "PBE",
            "kpts": {"size": [8, 8, 8], "gamma": True},
        },
    )
    with StoredCalculator(settings, tmp_path) as calculator:
        found = elastic_cubic(bulk("Si", a=5.469), calculator, strain=0.01, fmax=0.005)
    assert found.c44_clamped == pytest.approx(99.6, abs=1.0)
    assert found.c44_relaxed == pytest.approx(74.3, abs=1.0)
    assert found.kleinman_zeta == pytest.approx(0.512, abs=0.01)
