"""Elastic constants: Stillinger-Weber check values, exact identities, every crystal class, fits with errors."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.tersoff import Tersoff
from ase.spacegroup import crystal

from mlip.calculators.stillinger_weber import StillingerWeber
from mlip.properties.elastic import internal
from mlip.properties.elastic.constants import measure_elasticity
from mlip.properties.elastic.cubic import elastic_cubic
from mlip.properties.elastic.internal import forces_of, respond
from mlip.properties.elastic.strains import CUBIC_PATHS, StrainPath, choose_paths, energy_rows, polynomial_term
from mlip.properties.elastic.symmetry import bond_matrix, find_basis
from mlip.properties.eos import compute_eos, fit_eos
from mlip.properties.symmetry import PropertyError, lattice_constant
from mlip.studies.elastic.equilibrium import find_equilibrium

SCAN = np.linspace(-0.04, 0.04, 9)


def tersoff_silicon() -> Tersoff:
    """Tersoff's third silicon potential, Phys. Rev. B 38, 9902 (1988)."""
    from ase.calculators.tersoff import TersoffParameters

    parameters = TersoffParameters(
        m=3.0, gamma=1.0, lambda3=0.0, c=1.0039e5, d=16.217, h=-0.59825, n=0.78734, beta=1.1e-6,
        lambda2=1.73222, B=471.18, R=2.85, D=0.15, lambda1=2.4799, A=1830.8,
    )  # fmt: skip
    return Tersoff({("Si", "Si", "Si"): parameters})


@pytest.fixture(scope="module")
def silicon() -> Atoms:
    return find_equilibrium(bulk("Si", a=5.4), StillingerWeber())


@pytest.fixture(scope="module")
def measured(silicon):
    return measure_elasticity(silicon, StillingerWeber())


# Stillinger-Weber


def test_stand_in_has_the_derivatives_of_its_energy() -> None:
    atoms = bulk("Si", a=5.5, cubic=True)
    atoms.rattle(0.15, seed=1)
    atoms.calc = StillingerWeber()
    assert np.allclose(atoms.get_forces(), calculate_numerical_forces(atoms, 1e-5), atol=1e-7)
    assert np.allclose(atoms.get_stress(), calculate_numerical_stress(atoms, 1e-5), atol=1e-8)


def test_constants_of_stillinger_weber(measured) -> None:
    assert measured.basis.names == ("C11", "C12", "C44")
    assert measured.constants("clamped").values == pytest.approx([151.42, 76.42, 109.76], abs=0.01)
    assert measured.constants("relaxed").values == pytest.approx([151.42, 76.42, 56.45], abs=0.01)
    assert measured.kleinman_zeta == pytest.approx(0.629, abs=5e-4)
    assert measured.response.frequencies[-3:] == pytest.approx([17.83] * 3, abs=0.01)
    assert abs(measured.pressure) < 1e-3


def test_energy_stress_and_linear_response_agree(measured) -> None:
    for state in ("clamped", "relaxed"):
        assert measured.by_energy[state].values == pytest.approx(measured.by_stress[state].values, rel=2e-4)
    assert measured.linear_response() == pytest.approx(measured.by_stress["relaxed"].values, rel=2e-4)


def test_relaxation_leaves_c11_and_c12(measured) -> None:
    clamped, relaxed = measured.constants("clamped").values, measured.constants("relaxed").values
    assert relaxed[:2] == pytest.approx(clamped[:2], rel=1e-8)
    assert relaxed[2] < 0.6 * clamped[2]


def test_gap_of_c44_is_what_the_optical_phonon_and_zeta_say(measured) -> None:
    """C44_clamped - C44_relaxed = m w^2 zeta^2 / (8 a); zeta from relaxed positions, w from force constants."""
    shear = measured.samples["relaxed"][2]
    shifts = polynomial_term(shear.amplitudes, shear.shifts, [0, 1, 2, 3], 1)[0]
    a = measured.crystal.get_volume() * 4
    moved = (shifts[1] - shifts[0])[2]
    zeta = abs(moved) / (a ** (1 / 3) / 4)
    omega = 2 * np.pi * measured.response.frequencies[-1] * 1e12 / units.second
    gap = measured.crystal.get_masses()[0] * omega**2 * zeta**2 / (8 * a ** (1 / 3)) / units.GPa
    clamped, relaxed = (measured.by_energy[state].values[2] for state in ("clamped", "relaxed"))
    assert zeta == pytest.approx(measured.kleinman_zeta, rel=1e-3)
    assert gap == pytest.approx(clamped - relaxed, rel=1e-3)


@pytest.mark.parametrize("structure", [bulk("Si", a=5.43, cubic=True), bulk("Cu", "hcp", a=2.55, c=4.16)])
def test_force_constants_of_equivalent_atoms_follow_from_one(structure, monkeypatch) -> None:
    calculator = StillingerWeber() if len(structure) == 8 else EMT()
    calls = []

    def forces(structures):
        calls.append(len(structures))
        return forces_of(calculator)(structures)

    reduced = respond(structure, forces)
    assert calls[0] == 6  # one atom, three axes, both signs
    every = [internal._Image(k, np.eye(3), np.arange(len(structure))) for k in range(len(structure))]
    monkeypatch.setattr(internal, "_symmetry_images", lambda crystal: every)
    full = respond(structure, forces)
    assert calls[2] == 6 * len(structure)
    assert reduced.correction == pytest.approx(full.correction, abs=1e-3)
    assert reduced.frequencies[3:] == pytest.approx(full.frequencies[3:], rel=1e-4)


def test_bulk_modulus_is_that_of_the_equation_of_state(measured) -> None:
    c11, c12, _ = measured.constants("relaxed").values
    eos = fit_eos(*compute_eos(measured.crystal, StillingerWeber(), np.linspace(-0.01, 0.01, 7)))
    assert (c11 + 2 * c12) / 3 == pytest.approx(eos.b0, rel=2e-3)


def test_fit_error_covers_noise_of_the_energies(silicon) -> None:
    class Noisy(StillingerWeber):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results["energy"] += rng.normal(0, 2e-6)

    rng = np.random.default_rng(3)
    errors = []
    for _ in range(12):
        found = measure_elasticity(silicon, Noisy(), relax=False).by_energy["clamped"]
        errors.append((found.values - [151.424, 76.422, 109.757]) / found.fit_error)
    rms = np.sqrt(np.mean(np.square(errors), axis=0))
    assert (rms > 0.3).all()
    assert (rms < 4).all()


# Crystal classes


@pytest.mark.parametrize(
    ("structure", "system", "names"),
    [
        (bulk("Cu"), "cubic", ("C11", "C12", "C44")),
        (bulk("Mg"), "hexagonal", ("C11", "C12", "C13", "C33", "C44")),
        (bulk("Sn", "bct", a=5.8, c=3.2), "tetragonal", ("C11", "C12", "C13", "C33", "C44", "C66")),
        (crystal("Bi", [(0, 0, 0.234)], spacegroup=166, cellpar=[4.55, 4.55, 11.86, 90, 90, 120]), "trigonal", 6),
        (crystal("Ga", [(0, 0.156, 0.081)], spacegroup=64, cellpar=[4.5, 7.6, 4.5, 90, 90, 90]), "orthorhombic", 9),
        (crystal("Se", [(0.1, 0.2, 0.3)], spacegroup=4, cellpar=[5, 6, 7, 90, 100, 90]), "monoclinic", 13),
        (crystal("Se", [(0.1, 0.2, 0.3)], spacegroup=1, cellpar=[5, 6, 7, 80, 100, 95]), "triclinic", 21),
    ],
)
def test_every_class_has_its_number_of_constants_and_paths(structure, system, names) -> None:
    basis = find_basis(structure)
    assert basis.crystal_system == system
    assert (basis.names == names) if isinstance(names, tuple) else (len(basis.names) == names)
    paths = choose_paths(basis)
    assert len(paths) == len(basis.names)
    constants = np.random.default_rng(0).normal(size=len(basis.names))
    curvatures = energy_rows(basis, paths) @ constants
    assert np.linalg.pinv(energy_rows(basis, paths)) @ curvatures == pytest.approx(constants)


def test_symmetry_reduction_is_pymatgens() -> None:
    from pymatgen.analysis.elasticity import ElasticTensor
    from pymatgen.io.ase import AseAtomsAdaptor

    structure = bulk("Mg")
    basis = find_basis(structure)
    raw = np.random.default_rng(5).normal(size=(6, 6))
    raw = raw + raw.T + 40 * np.eye(6)
    theirs = ElasticTensor.from_voigt(raw).fit_to_structure(AseAtomsAdaptor.get_structure(structure))
    averaged = np.mean([m @ raw @ m.T for m in map(bond_matrix, _rotations(structure))], axis=0)
    assert np.allclose(averaged, theirs.voigt, atol=1e-6)
    assert basis.tensor(basis.project(averaged)) == pytest.approx(averaged, abs=1e-8)


def _rotations(structure: Atoms) -> np.ndarray:
    from mlip.properties.symmetry import find_symmetry

    cell = structure.cell.array.T
    return np.array([cell @ w @ np.linalg.inv(cell) for w in find_symmetry(structure).rotations])


def test_hexagonal_crystal_by_energy_and_by_stress() -> None:
    cobalt = find_equilibrium(bulk("Cu", "hcp", a=2.55, c=4.16), EMT(), fmax=1e-4)
    found = measure_elasticity(cobalt, EMT(), amplitudes=(0.003, 0.006), fmax=1e-4)
    energy, stress = found.by_energy["relaxed"].values, found.by_stress["relaxed"].values
    assert energy == pytest.approx(stress, rel=0.02, abs=1)
    assert found.linear_response() == pytest.approx(stress, rel=0.02, abs=1)
    tensor = found.basis.tensor(stress)
    assert tensor[5, 5] == pytest.approx((tensor[0, 0] - tensor[0, 1]) / 2)
    assert np.linalg.eigvalsh(tensor).min() > 0
    assert stress[0] < found.by_stress["clamped"].values[0] - 0.5  # hcp has internal strain, unlike fcc


def test_tensor_fit_is_pymatgens(silicon) -> None:
    from pymatgen.analysis.elasticity import ElasticTensor, Strain, Stress

    strains, stresses = [], []
    for direction in np.eye(6):
        path = StrainPath("unit", tuple(direction))
        for amplitude in (-0.002, -0.001, 0.001, 0.002):
            atoms = path.apply(silicon, amplitude)
            atoms.calc = StillingerWeber()
            strains.append(Strain.from_voigt(amplitude * direction))
            stresses.append(Stress(atoms.get_stress(voigt=False) / units.GPa))
    theirs = ElasticTensor.from_independent_strains(strains, stresses, eq_stress=np.zeros((3, 3)))
    basis = find_basis(silicon)
    own = measure_elasticity(silicon, StillingerWeber(), relax=False).constants("clamped").values
    assert basis.project(np.array(theirs.voigt)) == pytest.approx(own, abs=0.1)


# Strains and fits


@pytest.mark.parametrize("path", CUBIC_PATHS, ids=lambda path: path.name)
def test_strain_paths_keep_the_volume_where_they_say_so(path) -> None:
    determinant = np.linalg.det(path.gradient(0.07))
    assert bool(abs(determinant - 1) < 1e-12) is path.conserving
    step = (path.gradient(1e-6) - path.gradient(-1e-6)) / 2e-6
    assert [step[0, 0], step[1, 1], 2 * step[0, 1]] == pytest.approx(
        [path.direction[0], path.direction[1], path.direction[5]], abs=1e-6
    )


def test_polynomial_terms_have_the_spread_of_repeated_fits() -> None:
    rng = np.random.default_rng(0)
    x = np.linspace(-1, 1, 9)
    fits = [polynomial_term(x, 2 + 3 * x**2 + rng.normal(0, 0.1, 9), [0, 1, 2], 2) for _ in range(400)]
    values, errors = np.array(fits).T
    assert values.mean() == pytest.approx(3, abs=0.03)
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.1)
    assert np.isnan(polynomial_term(x[:3], x[:3], [0, 1, 2], 2)[1])


@pytest.mark.parametrize("amplitudes", [(), (0.0,), (0.2,), (-0.01,)])
def test_senseless_amplitudes_are_refused(silicon, amplitudes) -> None:
    with pytest.raises(PropertyError, match="between 0 and"):
        measure_elasticity(silicon, StillingerWeber(), amplitudes=amplitudes)


# Cubic crystals from four strained cells


@pytest.mark.parametrize("cubic", [False, True])
def test_copper_elastic_constants_obey_the_bulk_modulus_identity(cubic):
    copper = find_equilibrium(bulk("Cu", cubic=cubic), EMT())
    eos = fit_eos(*compute_eos(copper, EMT(), SCAN))
    elastic = elastic_cubic(copper, EMT())
    assert elastic.bulk_modulus == pytest.approx(eos.b0, rel=0.01)
    assert elastic.c44_relaxed == pytest.approx(elastic.c44_clamped, rel=1e-6)  # every atom is a symmetry centre
    assert elastic.c11 > elastic.c12 > 0
    assert elastic.kleinman_zeta is None


def test_silicon_elastic_constants_match_the_published_potential():
    silicon = find_equilibrium(bulk("Si"), tersoff_silicon(), fmax=1e-3)
    elastic = elastic_cubic(silicon, tersoff_silicon())
    assert lattice_constant(silicon, silicon.get_volume()) == pytest.approx(5.432, abs=0.001)
    # published with the potential: 142.5, 75.4, 69.0 and 118.8 GPa
    assert (elastic.c11, elastic.c12) == pytest.approx((143, 75), abs=1)
    assert (elastic.c44_relaxed, elastic.c44_clamped) == pytest.approx((69, 119), abs=1)
    assert elastic.kleinman_zeta == pytest.approx(0.67, abs=0.01)
    assert elastic_cubic(silicon, tersoff_silicon(), relax=False).c44_relaxed is None


def test_elastic_constants_refuse_what_is_not_cubic_or_not_aligned():
    with pytest.raises(PropertyError, match="not cubic"):
        elastic_cubic(bulk("Mg"), EMT())
    turned = bulk("Cu", cubic=True)
    turned.rotate(30, "z", rotate_cell=True)
    with pytest.raises(PropertyError, match="along x, y and z"):
        elastic_cubic(turned, EMT())
