"""Molecular dynamics of 64 walkers in one batch with TorchSim."""

import torch
import torch_sim as ts
from ase.build import bulk

from mlip.export.torchsim import load_torchsim_model

device = "cuda" if torch.cuda.is_available() else "cpu"
model = load_torchsim_model("@POTENTIAL@", device=device, dtype=torch.float32 if device == "cuda" else torch.float64)
walkers = [bulk("@ELEMENT@", cubic=True) for _ in range(64)]
final = ts.integrate(walkers, model, integrator=ts.nvt_langevin, n_steps=100, temperature=600, timestep=0.001)
print(final.energy / final.n_atoms_per_system)
