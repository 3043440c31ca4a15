"""The compiled kernels equal their twins in torch, values and derivatives."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from mlip.potential.ace import kernels
from mlip.potential.ace.edges import contract_edges, sum_edges
from mlip.potential.ace.environments import Environments, build_environments
from mlip.potential.ace.invariants import derive_fields, form_invariants
from mlip.potential.ace.kernels import loader
from mlip.potential.ace.network import CommitteeNetwork
from mlip.potential.ace.size import Size
from mlip.potential.atomic_basis import AtomicBasis

pytestmark = pytest.mark.skipif(loader.load_library() is None, reason="no C++ compiler: no compiled kernels")

DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
BASES = {
    "one element": AtomicBasis(("Cu",), 4.5, 8, 3, {"Cu-Cu": 2.4}),
    "two elements, few radial functions": AtomicBasis(
        ("Au", "Cu"), 5.2, 5, 2, {"Au-Au": 2.5, "Au-Cu": 2.4, "Cu-Cu": 2.4}
    ),
}


def compare(function, arguments: list[torch.Tensor], tolerance: float) -> None:
    """``function`` and its derivatives with kernels and without, for one random cotangent."""
    results = []
    for usable in (kernels.usable, lambda *_: False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "usable", usable)
            leaves = [a.clone().requires_grad_() for a in arguments]
            found = function(*leaves)
            torch.manual_seed(1)
            sum((f * torch.randn_like(f)).sum() for f in found).backward()
            results.append([*(f.detach() for f in found), *(leaf.grad for leaf in leaves)])
    for ours, twin in zip(*results, strict=True):
        assert ours.shape == twin.shape
        torch.testing.assert_close(ours, twin, rtol=0, atol=tolerance * max(1.0, float(twin.abs().max())))


def network(l_max: int, body_order: int, dtype: torch.dtype) -> CommitteeNetwork:
    made = CommitteeNetwork(Size(2, 1, 4, l_max, 5, body_order, (8,)), seed=0)
    return made.double() if dtype == torch.float64 else made


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("l_max", "body_order"), list(itertools.product((1, 2, 3), (4, 5))))
def test_invariants_and_their_derivatives(l_max: int, body_order: int, dtype: torch.dtype) -> None:
    """Second derivatives included; 7 x 5 values are no whole number of vectors."""
    made = network(l_max, body_order, dtype)
    size, sphere = made.size, made.sphere
    torch.manual_seed(0)
    fields = torch.randn((l_max + 1) ** 2, 7, 5, dtype=dtype)
    assert kernels.usable(l_max, len(size.powers), fields)

    def both(u: torch.Tensor, slopes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        invariants, products = form_invariants(size, u, sphere)
        return invariants, derive_fields(size, u, products, slopes * invariants, sphere)

    slopes = torch.randn(3, 1 + size.n_pairs + len(size.powers), 7, 5, dtype=dtype)
    compare(both, [fields, slopes], 10 * TOLERANCE[dtype])


def environments(basis: AtomicBasis, dtype: torch.dtype) -> Environments:
    rng = np.random.default_rng(0)
    structures: list[Atoms] = []
    for a in (3.6, 3.9):
        atoms = bulk("Cu", cubic=True, a=a) * (2, 1, 1)
        atoms.rattle(0.2, rng=rng)
        atoms.symbols[::3] = basis.species[0]
        structures.append(atoms)
    return build_environments(structures, basis).to("cpu", dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("basis", BASES.values(), ids=BASES)
def test_derivatives_along_edges_and_their_sums(basis: AtomicBasis, dtype: torch.dtype) -> None:
    env = environments(basis, dtype)
    torch.manual_seed(0)
    shape = (2, (basis.l_max + 1) ** 2, len(env.species), len(basis.species) * basis.n_radial)
    compare(lambda g: (contract_edges(env, g),), [torch.randn(shape, dtype=dtype)], TOLERANCE[dtype])
    edges = torch.randn(len(env.species), 2, 3, env.slots[-1], dtype=dtype)
    compare(lambda e: sum_edges(env, e, 2), [edges], TOLERANCE[dtype])


def test_a_batch_may_share_the_arrays_of_its_data_set() -> None:
    basis = BASES["two elements, few radial functions"]
    env = environments(basis, torch.float64)
    rows = torch.nonzero(env.structure == 1)[:, 0]
    taken, shared = (env.take(rows, 2, share=share) for share in (False, True))
    assert shared.angular_slope is env.angular_slope
    gradient = torch.randn(1, 9, len(rows), 10, dtype=torch.float64)
    assert torch.equal(contract_edges(taken, gradient), contract_edges(shared, gradient))


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = network(3, 4, torch.float64)
    fields = torch.randn(16, 1001, 5, dtype=torch.float64)  # enough for two threads, and no whole number of vectors
    alone = form_invariants(made.size, fields, made.sphere)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    shared = form_invariants(made.size, fields, made.sphere)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_transforms_of_functions_do_without() -> None:
    made = network(3, 4, torch.float64)
    fields = torch.randn(16, 2, 5, dtype=torch.float64)

    def total(u: torch.Tensor) -> torch.Tensor:
        return form_invariants(made.size, u, made.sphere)[0].sum()

    leaf = fields.clone().requires_grad_()
    total(leaf).backward()
    torch.testing.assert_close(torch.func.grad(total)(fields), leaf.grad)


def test_denormal_numbers_stay_in_the_process() -> None:
    """A library that was linked with -ffast-math would flush them to zero for everyone."""
    assert float(np.float64(1e-310) * np.float64(0.5)) > 0.0


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", code], env=environment, capture_output=True, text=True, check=False
    )


LOAD = "from mlip.potential.ace.kernels.loader import load_library; print(load_library() is None)"


def test_without_kernels_torch_does_it() -> None:
    assert run(LOAD, MLIP_KERNELS="off").stdout.strip() == "True"


def test_a_compiler_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho no such flag >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(loader, "find_compiler", lambda: str(compiler))
    monkeypatch.setattr(loader, "_folders", lambda: [tmp_path / "build"])
    with pytest.warns(UserWarning, match="no such flag"):
        assert loader.load_library.__wrapped__() is None
