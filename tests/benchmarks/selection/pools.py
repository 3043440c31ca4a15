"""Pools of frames with fast, exact teachers, among which a rule has to find those worth a label.

Every pool has kinds of structures. What a potential is tried on is drawn from other trajectories, as many of each
kind, so that a kind that is rare in the pool counts like the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import bulk, fcc111
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import BFGS

from mlip.calculators.stillinger_weber import StillingerWeber
from mlip.seeds import derive_rng, derive_seed
from mlip.structures.neighbors import find_pairs

EVERY = 10
"""Steps of MD between frames of a pool."""


class Mixture(Calculator):
    """Kob and Andersen's binary Lennard-Jones mixture (Phys. Rev. E 51, 4626 (1995)), in units of argon.

    Argon is A, neon B; cut at 2.5 sigma of each pair, where energies and forces are shifted to vanish.
    """

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    SIGMA = np.array([[3.405, 0.8 * 3.405], [0.8 * 3.405, 0.88 * 3.405]])  # Å
    EPSILON = 0.0104 * np.array([[1.0, 1.5], [1.5, 0.5]])  # eV

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Everything at once."""
        super().calculate(atoms, list(properties), list(system_changes))
        pairs = find_pairs(self.atoms, 2.5 * 3.405 - 1e-9)
        kind = (self.atoms.numbers == 10).astype(int)
        a, b = kind[pairs.centers], kind[pairs.neighbors]
        x, epsilon = pairs.distances / self.SIGMA[a, b], self.EPSILON[a, b]
        inside = x < 2.5
        edge = 24 * (-2 * 2.5**-13 + 2.5**-7)
        energy = 4 * (x**-12 - x**-6) - 4 * (2.5**-12 - 2.5**-6) - edge * (x - 2.5)
        slope = (24 * (-2 * x**-13 + x**-7) - edge) / self.SIGMA[a, b]
        along = np.where(inside, epsilon * slope / pairs.distances, 0.0)[:, None] * pairs.vectors
        forces = np.zeros((len(self.atoms), 3))
        np.add.at(forces, pairs.centers, along)
        total = 0.5 * float(np.where(inside, epsilon * energy, 0.0).sum())
        self.results = {"energy": total, "free_energy": total, "forces": forces}
        if self.atoms.pbc.all():
            strain = 0.5 * along.T @ pairs.vectors / self.atoms.get_volume()
            self.results["stress"] = strain[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


@dataclass(frozen=True)
class Kind:
    """Structures that are alike.

    ``temperature`` is in K, and 0 where every frame is made anew, without dynamics; ``share`` is of the pool, and 0 of
    what potentials are tried on only; ``system`` is the starting structure that they count as; at ``heat`` (K) they are
    molten first.
    """

    name: str
    make: Callable[[np.random.Generator], Atoms]
    temperature: float
    share: float
    system: int = 0
    heat: float | None = None


@dataclass(frozen=True)
class Case:
    """A pool's teacher, kinds and starting structures, of which labels are made before anything is chosen."""

    teacher: Callable[[], Calculator]
    kinds: Sequence[Kind]
    prepared: Sequence[Callable[[np.random.Generator], Atoms]]
    n_pool: int = 300
    n_prepared: int = 8
    timestep: float = 2.0


def diamond(repeat: tuple[int, int, int], scale: float = 1.0) -> Atoms:
    return bulk("Si", "diamond", a=5.431 * scale, cubic=True).repeat(repeat)


def vacancy(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    del atoms[int(rng.integers(len(atoms)))]
    return atoms


def interstitial(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """A further silicon atom in a tetrahedral hole."""
    hole = atoms.positions[int(rng.integers(len(atoms)))] - np.full(3, 5.431 / 4)
    if np.min(np.linalg.norm(atoms.positions - hole, axis=1)) < 1.5:
        hole = hole + np.full(3, 5.431 / 2)
    atoms.append(Atoms("Si", positions=[hole])[0])
    return atoms


def silicon_slab() -> Atoms:
    atoms = diamond((1, 1, 2))
    atoms.center(vacuum=5.0, axis=2)
    return atoms


def alloy(rng: np.random.Generator, gold: float, repeat: tuple[int, int, int] = (2, 2, 2), scale: float = 1.0) -> Atoms:
    """Face-centred copper with a share of gold, at the mean lattice constant."""
    atoms = bulk("Cu", "fcc", a=scale * (3.61 + gold * 0.46), cubic=True).repeat(repeat)
    atoms.numbers[rng.random(len(atoms)) < gold] = 79
    if gold > 0:  # a cell without any would leave the potential without the element
        atoms.numbers[int(rng.integers(len(atoms)))] = 79
    return atoms


def alloy_slab(rng: np.random.Generator, gold: float) -> Atoms:
    atoms = fcc111("Cu", (2, 2, 5), a=3.61 + gold * 0.46, vacuum=5.0, periodic=True)
    atoms.numbers[rng.random(len(atoms)) < gold] = 79
    return atoms


def mixture(rng: np.random.Generator, scale: float, repeat: int = 2) -> Atoms:
    """Argon with a fifth of neon, face-centred."""
    atoms = bulk("Ar", "fcc", a=5.1 * scale, cubic=True).repeat(repeat)
    atoms.numbers[rng.permutation(len(atoms))[: max(1, len(atoms) // 5)]] = 10
    return atoms


def droplet(rng: np.random.Generator) -> Atoms:
    atoms = mixture(rng, 1.0, 2)
    atoms.center(vacuum=5.0)
    return atoms


ENOL = {
    "O": [(-1.25, -0.80, 0.0), (1.25, -0.85, 0.0)],
    "C": [(-1.22, 0.45, 0.0), (0.0, 1.20, 0.0), (1.22, 0.45, 0.0), (-2.50, 1.25, 0.0), (2.50, 1.25, 0.0)],
    "H": [(0.35, -1.15, 0.0), (0.0, 2.28, 0.0)]
    + [(side * x, y, z) for side in (-1, 1) for x, y, z in ((3.36, 0.6, 0.0), (2.55, 1.9, 0.88), (2.55, 1.9, -0.88))],
}
"""Acetylacetone as the enol, Å, drawn by hand; :func:`enol` relaxes it. The hydrogen bond's proton is atom 7."""


def xtb() -> Calculator:
    """GFN2-xTB (C. Bannwarth, S. Ehlert and S. Grimme, J. Chem. Theory Comput. 15, 1652 (2019)) by tblite."""
    from tblite.ase import TBLite

    calculator: Calculator = TBLite(method="GFN2-xTB", verbosity=0)
    return calculator


@cache
def relaxed_enol() -> Atoms:
    atoms = Atoms([s for s, places in ENOL.items() for _ in places], [x for places in ENOL.values() for x in places])
    atoms.calc = xtb()
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=200)
    return Atoms(atoms.numbers, atoms.positions)


def enol() -> Atoms:
    return relaxed_enol().copy()


def turned(rng: np.random.Generator) -> Atoms:
    """One of the two halves turned about the bond between them by any angle, rattled."""
    atoms = enol()
    # The half of the hydroxyl: C4 (4), its oxygen (1), proton (7), methyl (6; 12 to 14).
    atoms.rotate_dihedral(2, 3, 4, 1, float(rng.uniform(0, 360)), indices=[1, 6, 7, 12, 13, 14])
    atoms.positions += rng.normal(0, 0.03, atoms.positions.shape)
    return atoms


def handed_over(rng: np.random.Generator) -> Atoms:
    """The proton anywhere between the two oxygen atoms, rattled."""
    atoms = enol()
    bond = atoms.positions[0] - atoms.positions[1]
    span = float(np.linalg.norm(bond))
    atoms.positions[7] = atoms.positions[1] + bond * float(rng.uniform(1.0, span - 1.0)) / span
    atoms.positions += rng.normal(0, 0.03, atoms.positions.shape)
    return atoms


def strained(make: Callable[[np.random.Generator], Atoms], rng: np.random.Generator) -> Atoms:
    """A prepared structure: strained by up to 4 %, rattled by 0.08 Å; of a molecule, whose bonds are stiff, 0.03 Å."""
    atoms = make(rng)
    strain = np.eye(3) + rng.uniform(-0.04, 0.04, (3, 3))
    if atoms.pbc.any():
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.positions += rng.normal(0, 0.08 if atoms.pbc.any() else 0.03, atoms.positions.shape)
    return atoms


LONG, WIDE = (2, 2, 1), (4, 4, 2)

CASES: dict[str, Case] = {
    "silicon": Case(
        StillingerWeber,
        [
            Kind("crystal", lambda _: diamond(LONG), 900.0, 0.6),
            Kind("melt", lambda _: diamond(LONG, 0.98), 2500.0, 0.1, heat=5000.0),
            Kind("surface", lambda _: silicon_slab(), 900.0, 0.1),
            Kind("vacancy", lambda rng: vacancy(diamond(LONG), rng), 900.0, 0.1),
            Kind("dense", lambda _: diamond(LONG, 0.95), 900.0, 0.1),
        ],
        [lambda _: diamond((1, 1, 1))],
    ),
    "alloy": Case(
        EMT,
        [
            Kind("crystal", lambda rng: alloy(rng, 0.25, LONG), 600.0, 0.6),
            Kind("gold-rich", lambda rng: alloy(rng, 0.75, LONG), 600.0, 0.1),
            Kind("surface", lambda rng: alloy_slab(rng, 0.25), 600.0, 0.15),
            Kind("melt", lambda rng: alloy(rng, 0.25, LONG, 1.03), 1800.0, 0.15, heat=4000.0),
        ],
        [lambda rng: alloy(rng, 0.25, (1, 1, 1))],
        timestep=4.0,
    ),
    "mixture": Case(
        Mixture,
        [
            Kind("solid", lambda rng: mixture(rng, 1.0), 40.0, 0.6),
            Kind("liquid", lambda rng: mixture(rng, 1.04), 120.0, 0.2, heat=400.0),
            Kind("droplet", droplet, 60.0, 0.1),
            Kind("dense", lambda rng: mixture(rng, 0.93), 120.0, 0.1, heat=400.0),
        ],
        [lambda rng: mixture(rng, 1.0, 1)],
        timestep=8.0,
    ),
    "mixed-sizes": Case(
        StillingerWeber,
        [
            Kind("small", lambda _: diamond(LONG), 900.0, 0.6),
            Kind("large", lambda _: diamond(WIDE), 900.0, 0.38),
            Kind("interstitial", lambda rng: interstitial(diamond(WIDE), rng), 900.0, 0.01),
            Kind("vacancy", lambda rng: vacancy(diamond(WIDE), rng), 900.0, 0.01),
        ],
        [lambda _: diamond((1, 1, 1))],
        n_pool=200,
    ),
    "five-systems": Case(
        EMT,
        [
            Kind("copper", lambda rng: alloy(rng, 0.0, LONG), 600.0, 0.3, 0),
            Kind("gold", lambda rng: alloy(rng, 1.0, LONG), 600.0, 0.3, 1),
            Kind("alloy", lambda rng: alloy(rng, 0.5, LONG), 600.0, 0.2, 2),
            Kind("surface", lambda rng: alloy_slab(rng, 0.0), 600.0, 0.1, 3),
            Kind("melt", lambda rng: alloy(rng, 0.5, LONG, 1.03), 1800.0, 0.1, 4, heat=4000.0),
        ],
        [
            lambda rng: alloy(rng, 0.0, (1, 1, 1)),
            lambda rng: alloy(rng, 1.0, (1, 1, 1)),
            lambda rng: alloy(rng, 0.5, (1, 1, 1)),
            lambda rng: alloy_slab(rng, 0.0),
            lambda rng: alloy(rng, 0.5, (1, 1, 1), 1.03),
        ],
        n_prepared=10,
        timestep=4.0,
    ),
    "acetylacetone": Case(
        xtb,
        [
            Kind("300 K", lambda _: enol(), 300.0, 0.8),
            Kind("600 K", lambda _: enol(), 600.0, 0.2),
            Kind("half turn", turned, 0.0, 0.0),
            Kind("proton transfer", handed_over, 0.0, 0.0),
        ],
        [lambda _: enol()],
        timestep=0.5,
    ),
    "liquid": Case(
        StillingerWeber,
        [Kind("melt", lambda _: diamond(LONG, 0.98), 2500.0, 1.0, heat=5000.0)],
        [lambda _: diamond((1, 1, 1), 0.98)],
    ),
}


def run_md(kind: Kind, case: Case, n_frames: int, seed: int) -> list[Atoms]:
    """Labelled frames of one trajectory, thinned to every :data:`EVERY` steps."""
    rng = np.random.default_rng(seed)
    if kind.temperature == 0:
        return [label(kind.make(rng), case.teacher(), kind) for _ in range(n_frames)]
    atoms = kind.make(rng)
    atoms.calc = case.teacher()
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * (kind.heat or kind.temperature), rng=rng)
    friction = 0.02 / units.fs * (2.0 / case.timestep)
    md = Langevin(
        atoms,
        case.timestep * units.fs,
        temperature_K=kind.heat or kind.temperature,
        friction=friction,
        rng=rng,
        fixcm=False,
    )
    if kind.heat is not None:
        md.run(200)
        md.set_temperature(temperature_K=kind.temperature)
    md.run(100)
    frames = []
    for _ in range(n_frames):
        md.run(EVERY)
        frames.append(label(atoms, case.teacher(), kind))
    return frames


def label(atoms: Atoms, calculator: Calculator, kind: Kind | None = None) -> Atoms:
    """A copy with its teacher's labels; kind and system in ``info``."""
    labelled = atoms.copy()
    labelled.calc = calculator
    results: dict[str, Any] = {"energy": labelled.get_potential_energy(), "forces": labelled.get_forces()}
    if atoms.pbc.all():
        results["stress"] = labelled.get_stress()
    labelled.calc = SinglePointCalculator(labelled, **results)
    labelled.info = {} if kind is None else {"kind": kind.name, "source": kind.system}
    return labelled


def build_case(name: str, seed: int, *, n_pool: int | None = None, n_test: int = 8) -> dict[str, list[Atoms]]:
    """Labelled structures ``pool``, ``prepared`` and ``test`` of case ``name``, other ones with each ``seed``."""
    case, built = CASES[name], {"pool": list[Atoms](), "test": list[Atoms](), "prepared": list[Atoms]()}
    for kind in case.kinds:
        wanted = max(2, round((n_pool or case.n_pool) * kind.share)) if kind.share else 0
        for part in range(-(-wanted // 30)):
            n_frames = min(30, wanted - 30 * part)
            built["pool"] += run_md(kind, case, n_frames, derive_seed(seed, name, kind.name, "pool", part))
        built["test"] += run_md(kind, case, n_test, derive_seed(seed, name, kind.name, "test"))
    rng = derive_rng(seed, name, "prepared")
    for k in range(case.n_prepared):
        system = k % len(case.prepared)
        atoms = label(strained(case.prepared[system], rng), case.teacher())
        atoms.info = {"kind": "prepared", "source": system}
        built["prepared"].append(atoms)
    return built


def isolated_energies(name: str, structures: Sequence[Atoms]) -> dict[str, float]:
    """Energies of lone atoms of all elements, eV."""
    energies = {}
    for symbol in sorted({s for atoms in structures for s in atoms.symbols}):
        lone = Atoms(symbol, positions=[[0, 0, 0]], cell=[20.0] * 3)
        lone.calc = CASES[name].teacher()
        energies[symbol] = float(lone.get_potential_energy())
    return energies
