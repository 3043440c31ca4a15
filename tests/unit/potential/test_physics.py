"""Every kind of potential obeys the same laws: :mod:`mlip.testing`."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ase import Atoms

from mlip.config.train import Mace, Train
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import Potential, load_potential
from mlip.potential.ace.committee import ACEPotential
from mlip.potential.zbl import INNER_FRACTION, covalent_sums, inner_radii, outer_radii, pair_name
from mlip.testing import LAWS, NEEDS_DOUBLE, Case
from tests.unit.conftest import SMALL

ISOLATED = {"Au": -0.25, "Cu": 0.5}
SINGLE: dict[str, Any] = {"tolerance": 5e-5, "step": 0.005}
"""Energies of some 10 eV have seven digits in float32, and are sums of larger terms."""
MACE = Mace(hidden_irreps="4x0e + 4x1o", num_interactions=2, correlation=2, max_ell=2)
KINDS: dict[str, dict[str, Any]] = {
    "one_layer": {},
    "zbl": {"short_range": "zbl"},
    "two_layers": {"n_layers": 2},
    "last_layer": {"committee_size": 1, "uncertainty": "last_layer"},
    "two_layers_last_layer": {"n_layers": 2, "committee_size": 1, "uncertainty": "last_layer"},
    "mace": {"backend": "mace", "cutoff": 4.0, "committee_size": 2, "batch_size": 2, "n_steps": 12, "mace": MACE},
}
MARKS = {
    "mace": [
        pytest.mark.mace,
        pytest.mark.skipif(find_spec("mace") is None, reason="mace-torch is not installed here (make setup-mace)"),
    ]
}
NAMES = [*KINDS, "single", "two_layers_single", "format_1"]


@pytest.fixture(scope="module")
def cases(alloys: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Filled as kinds are asked for."""
    return {}


def find_switches(potential: Potential) -> dict[str, list[float]]:
    """Where clamp and repulsion of each pair begin and end, Å."""
    tables = [covalent_sums(potential.species)]
    if isinstance(potential, ACEPotential):
        arguments = potential.species, potential.basis.shortest, potential.basis.margin
        outer = outer_radii(*arguments)
        tables = [inner_radii(*arguments), outer, INNER_FRACTION * outer]
        if (continuation := potential.basis.continuation) is not None:
            return {
                name: sorted({continuation.inner[name], *(reach for _, _, reach in terms)})
                for name, terms in continuation.terms.items()
            }
    names = [(i, j, pair_name(a, b)) for i, a in enumerate(potential.species) for j, b in enumerate(potential.species)]
    return {name: sorted({float(table[i, j]) for table in tables}) for i, j, name in names}


def make_case(name: str, alloys: list[Atoms], folder: Path, cases: dict[str, Case]) -> Case:
    if name in cases:
        return cases[name]
    if name == "format_1":
        potential = load_potential(Path(__file__).parents[2] / "data/potential_v1")
        case = Case(potential, ISOLATED, switches=find_switches(potential))
    elif name.endswith("single"):
        exact = make_case(f"{name.removesuffix('single')}".rstrip("_") or "one_layer", alloys, folder, cases)
        case = replace(exact, potential=exact.potential.in_precision("single"), **SINGLE)
    else:
        settings = Train(**(SMALL.model_dump() | {"n_steps": 80} | KINDS[name]))
        train_committee(TrainingRequest(alloys[:18], alloys[18:], settings, folder, seed=3, isolated_energies=ISOLATED))
        n_layers = settings.mace.num_interactions if settings.backend == "mace" else settings.n_layers
        potential = load_potential(folder)
        case = Case(potential, ISOLATED, n_layers, switches=find_switches(potential))
    cases[name] = case
    return case


@pytest.fixture
def case(request: pytest.FixtureRequest, alloys: list[Atoms], cases: dict[str, Case], tmp_path_factory: Any) -> Case:
    return make_case(request.param, alloys, tmp_path_factory.mktemp("kind"), cases)


@pytest.mark.parametrize("check", LAWS)
@pytest.mark.parametrize("case", [pytest.param(n, marks=MARKS.get(n, [])) for n in NAMES], indirect=True)
def test_law(case: Case, check: str) -> None:
    if check in NEEDS_DOUBLE and case.tolerance == SINGLE["tolerance"]:
        pytest.skip("round-off hides it")
    LAWS[check](case)
