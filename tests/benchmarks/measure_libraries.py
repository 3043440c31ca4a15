"""What libraries could do for the potential, beside what it does now: the tables of docs/potential.md.

    mlip train DATA/Si_training.extxyz --out POTENTIAL --max-seconds 60
    OMP_NUM_THREADS=1 python tests/benchmarks/measure_libraries.py --potential POTENTIAL

Libraries that are not installed are left out: matscipy, nvalchemi-toolkit-ops, sphericart-torch, e3nn,
cuequivariance-torch, numba. None is needed by anything else; put them into an environment of their own. CPU
time of one thread, the least of several blocks, in µs per atom of silicon rattled by 0.1 Å.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from mlip.potential import Potential, load_potential
from mlip.potential.ace import kernels
from mlip.potential.ace.basis import spherical_harmonics, tangential
from mlip.potential.ace.committee import ACEPotential
from mlip.potential.ace.edges import compute_density, sum_edges
from mlip.potential.ace.environments import build_environments
from mlip.potential.ace.kernels.loader import load_library
from mlip.potential.ace.network import CommitteeNetwork
from mlip.potential.ace.size import Size
from mlip.potential.atomic_basis import AtomicBasis
from mlip.structures.neighbors import find_pairs

CUTOFF, L_MAX, SLOTS, N_RADIAL = 5.0, 3, 34, 8
REPEATS = {64: 2, 512: 4}
BLOCKS, BLOCK_SECONDS = 7, 0.2
Row = tuple[str, Callable[[], object]]


def make_silicon(n_atoms: int) -> Atoms:
    """A rattled crystal."""
    atoms = bulk("Si", cubic=True).repeat(REPEATS[n_atoms])
    atoms.rattle(0.1, seed=0)
    return atoms


def time_cpu(work: Callable[[], object]) -> float:
    """CPU seconds of one call, the least mean of a block."""
    work()
    began = time.process_time()
    work()
    calls = max(1, int(BLOCK_SECONDS / max(time.process_time() - began, 1e-6)))
    found = []
    for _ in range(BLOCKS):
        began = time.process_time()
        for _ in range(calls):
            work()
        found.append((time.process_time() - began) / calls)
    return min(found)


def version(package: str) -> str:
    """``package`` and its version."""
    return f"{package} {importlib.metadata.version(package)}"


def neighbor_lists(n_atoms: int) -> Iterator[Row]:
    """All pairs in both directions with vectors and distances."""
    from vesin import NeighborList

    atoms = make_silicon(n_atoms)
    positions, cell = atoms.positions, atoms.cell.array
    expected = len(find_pairs(atoms, CUTOFF).centers)
    finder = NeighborList(cutoff=CUTOFF, full_list=True, sorted=True, n_threads=1)
    yield version("vesin"), lambda: finder.compute(points=positions, box=cell, periodic=True, quantities="ijDd")
    yield "vesin in `mlip.structures.neighbors.find_pairs`", lambda: find_pairs(atoms, CUTOFF)
    if found := optional("matscipy.neighbours"):
        _same(len(found.neighbour_list("i", atoms, CUTOFF)), expected, "matscipy")
        yield version("matscipy"), lambda: found.neighbour_list("ijDd", atoms, CUTOFF)
    if optional("warp") and (nvalchemi := optional("nvalchemiops.torch.neighbors")):
        yield from _nvalchemi(nvalchemi, atoms, expected)
    from ase.neighborlist import neighbor_list

    yield version("ase"), lambda: neighbor_list("ijDd", atoms, CUTOFF)


def _nvalchemi(library: Any, atoms: Atoms, expected: int) -> Iterator[Row]:
    positions, cell = torch.from_numpy(atoms.positions), torch.from_numpy(atoms.cell.array)[None]
    periodic = torch.ones(1, 3, dtype=torch.bool)
    for method in ("naive", "cell_list"):

        def work(method: str = method) -> Any:
            return library.neighbor_list(
                positions, CUTOFF, cell=cell, pbc=periodic, method=method, return_neighbor_list=True
            )

        _same(int(work()[0].shape[1]), expected, f"nvalchemi-toolkit-ops, {method}")
        yield f"{version('nvalchemi-toolkit-ops')}, {method}, CPU (without vectors)", work


def _same(found: int, expected: int, name: str) -> None:
    if found != expected:
        raise RuntimeError(f"{name} finds {found} pairs, vesin {expected}")


def harmonics(n_atoms: int) -> Iterator[Row]:
    """Y_lm up to l = 3 and their gradients for 34 edges an atom."""
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(n_atoms, 3, SLOTS)))
    for dtype in (torch.float32, torch.float64):
        kind = str(dtype).removeprefix("torch.")
        unit = torch.nn.functional.normalize(vectors, dim=1).to(dtype)
        edges = unit.mT.reshape(-1, 3).contiguous()
        yield f"`mlip.potential.ace.basis`, {kind}", lambda unit=unit: spherical_harmonics(unit, L_MAX)
        if sphericart := optional("sphericart.torch"):
            library = sphericart.SphericalHarmonics(L_MAX)
            _compare(library, edges, unit)
            name = f"{version('sphericart-torch')}, {kind}"
            yield name, lambda library=library, edges=edges: library.compute_with_gradients(edges)
            yield f"{name}, in our layout", lambda library=library, edges=edges: _arranged(library, edges, n_atoms)
        if e3nn := optional("e3nn.o3"):
            degrees = list(range(L_MAX + 1))

            def call(x: Tensor, module: Any = e3nn, degrees: list[int] = degrees) -> Tensor:
                return module.spherical_harmonics(degrees, x, normalize=False, normalization="integral")

            yield f"{version('e3nn')}, {kind}, one backward", lambda call=call, edges=edges: _backward(call, edges)
        if cue := optional("cuequivariance_torch"):
            own = cue.SphericalHarmonics(list(range(L_MAX + 1)), normalize=False)
            name = f"{version('cuequivariance-torch')}, {kind}, one backward"
            yield name, lambda own=own, edges=edges: _backward(own, edges)


def _compare(library: Any, edges: Tensor, unit: Tensor) -> None:
    values, gradient = library.compute_with_gradients(edges)
    own_values, own_gradient = spherical_harmonics(unit, L_MAX)
    own_gradient = tangential(unit, own_gradient)
    tolerance = 2e-5 if edges.dtype == torch.float32 else 1e-12
    torch.testing.assert_close(values, own_values.mT.reshape(values.shape), atol=tolerance, rtol=0)
    flat = own_gradient.permute(0, 3, 1, 2).reshape(gradient.shape)
    torch.testing.assert_close(gradient, flat, atol=tolerance, rtol=0)


def _arranged(library: Any, edges: Tensor, n_atoms: int) -> tuple[Tensor, Tensor]:
    """[N, LM, M] and [N, 3, LM, M], contiguous, as the contractions want them."""
    values, gradient = library.compute_with_gradients(edges)
    return (
        values.view(n_atoms, SLOTS, -1).mT.contiguous(),
        gradient.view(n_atoms, SLOTS, 3, -1).permute(0, 2, 3, 1).contiguous(),
    )


def _backward(call: Callable[[Tensor], Tensor], edges: Tensor) -> Tensor:
    """Without derivatives of its own a library gives one contraction of the gradient for each backward pass."""
    leaf = edges.detach().requires_grad_()
    return torch.autograd.grad(call(leaf).sum(), leaf)[0]


def densities(n_atoms: int) -> Iterator[Row]:
    """A [N, LM, n] of 34 edges an atom from their basis functions."""
    rng = np.random.default_rng(0)
    angular, radial = rng.normal(size=(n_atoms, (L_MAX + 1) ** 2, SLOTS)), rng.normal(size=(n_atoms, N_RADIAL, SLOTS))
    first, second = torch.from_numpy(angular), torch.from_numpy(radial)
    yield "torch, one `bmm` over padded slots", lambda: torch.bmm(first, second.mT)
    if numba := optional("numba"):

        @numba.njit(fastmath=True)
        def contract(centers: np.ndarray, y: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
            for e in range(len(centers)):
                for k in range(y.shape[1]):
                    for n in range(b.shape[1]):
                        out[centers[e], k, n] += y[e, k] * b[e, n]

        centers = np.repeat(np.arange(n_atoms), SLOTS)
        y, b = (np.ascontiguousarray(x.transpose(0, 2, 1)).reshape(n_atoms * SLOTS, -1) for x in (angular, radial))

        def work() -> np.ndarray:
            out = np.zeros((n_atoms, y.shape[1], b.shape[1]))
            contract(centers, y, b, out)
            return out

        np.testing.assert_allclose(work(), torch.bmm(first, second.mT).numpy(), atol=1e-10)
        yield f"{version('numba')}, a loop over edges", work


def potentials(n_atoms: int, potential: Potential, compiled: dict[str, Any]) -> Iterator[Row]:
    """Energies and derivatives of a committee's mean for given pairs; and the whole prediction."""
    atoms = make_silicon(n_atoms)
    pairs = find_pairs(atoms, potential.cutoff)
    species = torch.zeros(n_atoms, dtype=torch.int64)
    lists = torch.from_numpy(pairs.centers), torch.from_numpy(pairs.neighbors)
    vectors = torch.from_numpy(pairs.vectors)
    for precision in ("double", "single"):
        own = potential.in_precision(precision)
        if not isinstance(own, ACEPotential):
            raise TypeError("measure_libraries.py is about backend ace")
        yield f"eager, {precision}", lambda own=own: own.evaluate_pairs(species, *lists, vectors)
        if program := compiled.get(precision):
            dtype = torch.float64 if precision == "double" else torch.float32
            moved = vectors.to(dtype)
            name = f"AOTInductor, {precision} (compiled in {compiled[f'{precision} seconds']:.0f} s)"
            yield name, lambda p=program, v=moved: p(species, *lists, v)
        yield f"eager, {precision}, `predict` of all members", lambda own=own: own.predict([atoms])


def compile_programs(potential: Potential, folder: Path) -> dict[str, Any]:
    """AOTInductor packages in both precisions, and the wall seconds that each took."""
    from mlip.export.programs import export_program, load_compiled

    found: dict[str, Any] = {}
    for precision, dtype in (("double", torch.float64), ("single", torch.float32)):
        began = time.perf_counter()
        try:
            export_program(potential, folder / f"{precision}.pt2", compiled=True, dtype=dtype)
        except (RuntimeError, ValueError) as error:
            print(f"not compiled: {error}\n")
            return {}
        found[f"{precision} seconds"] = time.perf_counter() - began
        found[precision] = load_compiled(folder / f"{precision}.pt2")[0]
    return found


def loops(n_atoms: int) -> Iterator[Row]:
    """The network of the defaults in single precision, with the compiled loops and without."""
    basis = AtomicBasis(("Si",), CUTOFF, N_RADIAL, L_MAX, {"Si-Si": 2.0})
    environments = build_environments([make_silicon(n_atoms)], basis)
    density, environments = compute_density(environments).float(), environments.to("cpu", torch.float32)
    network = CommitteeNetwork(Size(1, 1, N_RADIAL, L_MAX, 32, 4, (32, 32)), seed=0)
    network.fit_statistics(environments, density)

    def forces() -> Tensor:
        return sum_edges(environments, network(environments, density)[1], 1)[0]

    def gradient() -> object:
        return torch.autograd.grad(forces().square().sum(), list(network.parameters()), allow_unused=True)

    def without(work: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(kernels, "usable", lambda *_: False)
                return work()

        return run

    yield "forces, compiled loops", torch.no_grad()(forces)
    yield "forces, torch alone", without(torch.no_grad()(forces))
    yield "gradient of a loss of forces, compiled loops", gradient
    yield "gradient of a loss of forces, torch alone", without(gradient)


def print_times(title: str, makers: Callable[[int], Iterator[Row]]) -> None:
    """A table of CPU times, µs per atom."""
    print(f"\n{title}\n\n| µs/atom | 64 atoms | 512 atoms |\n|---|---|---|")
    table: dict[str, list[float]] = {}
    for n_atoms in REPEATS:
        for name, work in makers(n_atoms):
            table.setdefault(name, []).append(1e6 * time_cpu(work) / n_atoms)
    for name, times in table.items():
        print(f"| {name} | {' | '.join(f'{t:.3g}' for t in times)} |")


def print_precisions(potential: Potential) -> None:
    """Differences of single from double precision."""
    print("\nSingle against double precision\n")
    print("| largest difference | energy, eV/atom | force, eV/Å | stress, GPa | force uncertainty, eV/Å |")
    print("|---|---|---|---|---|")
    single = potential.in_precision("single")
    for rattle, name in ((0.1, "rattled by 0.1 Å"), (0.3, "by 0.3 Å")):
        largest = np.zeros(4)
        for seed in range(5):
            atoms = bulk("Si", cubic=True).repeat(2)
            atoms.rattle(rattle, seed=seed)
            a, b = potential.predict([atoms])[0], single.predict([atoms])[0]
            stress = np.abs(_array(a.stress) - _array(b.stress)).max() * 160.2176634
            found = [abs(a.energy - b.energy) / len(atoms), np.abs(a.forces - b.forces).max(), stress]
            found.append(np.abs(a.force_uncertainty - b.force_uncertainty).max())
            largest = np.maximum(largest, found)
        print(f"| 64 atoms {name} | {' | '.join(f'{x:.1e}' for x in largest)} |")
    errors = _second_derivatives(potential), _second_derivatives(single)
    print(f"\nSecond derivative of the energy by differences of forces over 0.001 Å: {errors[0]:.6f} in double, ")
    print(f"{errors[1]:.6f} in single precision (eV/Å²); of energies: ", end="")
    print(f"{_curvature(potential):.4f} and {_curvature(single):.4f}.")


def _array(stress: np.ndarray | None) -> np.ndarray:
    return np.zeros(6) if stress is None else stress


def _moved(step: float) -> Atoms:
    atoms = make_silicon(64)
    atoms.positions[0, 0] += step
    return atoms


def _second_derivatives(potential: Potential, step: float = 1e-3) -> float:
    a, b = potential.predict([_moved(-step), _moved(step)])
    return float((a.forces[0, 0] - b.forces[0, 0]) / (2 * step))


def _curvature(potential: Potential, step: float = 1e-3) -> float:
    low, middle, high = (p.energy for p in potential.predict([_moved(-step), _moved(0), _moved(step)]))
    return (low - 2 * middle + high) / step**2


def optional(module: str) -> Any:
    """``module``, or None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--potential", type=Path, help="a silicon potential; without it, libraries alone are measured")
    parser.add_argument("--compile", action="store_true", help="time the compiled potential, too (needs g++)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"{version('torch')}, {version('numpy')}, 1 thread")
    print_times("Neighbour lists, silicon, 5 Å", neighbor_lists)
    print_times("Spherical harmonics up to l = 3 with gradients, 34 edges an atom", harmonics)
    print_times("Density from basis functions, 34 edges an atom, float64", densities)
    if load_library() is not None:
        print_times("The network, environments given, float32", loops)
    if given.potential is None:
        return
    potential = load_potential(given.potential)
    with tempfile.TemporaryDirectory() as folder:
        compiled = compile_programs(potential, Path(folder)) if given.compile else {}
        print_times("The potential, pairs given", lambda n: potentials(n, potential, compiled))
    print_precisions(potential)


if __name__ == "__main__":
    main()
