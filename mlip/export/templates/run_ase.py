"""ASE calculator of an exported program: needs torch, ase and vesin, nothing else."""

import json
from pathlib import Path

import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes
from vesin import NeighborList


class ProgramCalculator(Calculator):
    """Energy, forces and stress from a program written by ``mlip export --format pt2``."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, path, *, compiled=False, **kwargs):
        super().__init__(**kwargs)
        extra = {"potential.json": ""}
        if compiled:
            self.program = torch._inductor.aoti_load_package(str(path))
            about = self.program.get_metadata() | {"species": self.program.get_metadata()["species"].split()}
        else:
            self.program = torch.export.load(path, extra_files=extra).module()
            about = json.loads(extra["potential.json"])
        self.index, self.dtype = {s: k for k, s in enumerate(about["species"])}, getattr(torch, about["dtype"])
        self.device = about.get("device", "cpu")
        self.pairs = NeighborList(cutoff=float(about["cutoff"]), full_list=True)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if not (np.isfinite(atoms.positions).all() and np.abs(atoms.cell.array).max() < 1e6):  # NaN is not less
            raise ValueError(
                "positions or cell are no longer physical; the structure or the run that made it is broken"
            )
        box = atoms.cell.complete().array if atoms.pbc.any() else np.eye(3)
        i, j, vectors = self.pairs.compute(atoms.positions, box, atoms.pbc.tolist(), "ijD")
        i, j = torch.from_numpy(i.astype(np.int64)), torch.from_numpy(j.astype(np.int64))
        vectors = torch.from_numpy(vectors).reshape(-1, 3).to(self.dtype)
        species = torch.tensor([self.index[s] for s in atoms.get_chemical_symbols()])
        outputs = self.program(*(given.to(self.device) for given in (species, i, j, vectors)))
        energies, gradients = (value.cpu() for value in outputs)
        forces = torch.zeros(len(atoms), 3, dtype=self.dtype).index_add(0, i, gradients).index_add(0, j, -gradients)
        self.results = {"energy": float(energies.double().sum()), "forces": forces.numpy()}
        self.results["free_energy"] = self.results["energy"]
        if atoms.pbc.all():
            stress = (gradients.T @ vectors).numpy() / atoms.get_volume()
            self.results["stress"] = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


if __name__ == "__main__":
    from ase.build import bulk

    atoms = bulk("@ELEMENT@", cubic=True)
    program = Path(__file__).with_name("@PROGRAM@")
    atoms.calc = ProgramCalculator(program, compiled="compiled" in program.stem)
    print(atoms.get_potential_energy(), atoms.get_stress())
