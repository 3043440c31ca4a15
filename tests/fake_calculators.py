"""Calculators that misbehave on demand, importable by path in the labelling child process."""

from __future__ import annotations

import ctypes
import errno
import io
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import units
from ase.calculators.calculator import Calculator, SCFError, all_changes
from ase.calculators.emt import EMT

ERRORS = {"RuntimeError": RuntimeError, "MemoryError": MemoryError, "NameError": NameError, "ValueError": ValueError}


class TerminatesWhenFlushed(io.StringIO):
    """Sends this process the SIGTERM that Slurm sends all processes of a job."""

    def flush(self) -> None:
        sys.stdout = sys.__stdout__
        os.kill(os.getpid(), signal.SIGTERM)


class SpringCalculator(Calculator):
    """Atoms on springs to their centre (eV, Å), with a behaviour chosen by the number of atoms.

    ``behaviours`` maps the number of atoms, as a string, to ``segfault``, ``hang``, ``exit``,
    ``sysexit``, ``full``, ``nan``, ``unconverged``, ``silently_unconverged``, ``drift``, ``large``,
    ``terminated_at_its_end`` or ``raise <type> <message>``. ``logfile`` is a file that receives one line
    per calculation.
    """

    implemented_properties = ("energy", "forces")
    default_parameters: ClassVar[dict[str, Any]] = {
        "k": 1.0,
        "behaviours": {},
        "logfile": None,
        "seconds": 0.0,
        "maxiter": 10,
        "mixer": 1.0,
    }

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        if self.parameters.logfile:
            with Path(self.parameters.logfile).open("a", encoding="utf-8") as stream:
                stream.write(f"{len(atoms)} {os.environ.get('OMP_NUM_THREADS')}\n")
        time.sleep(self.parameters.seconds)
        behaviour = self.parameters.behaviours.get(str(len(atoms)), "ok")
        print(f"calculating {len(atoms)} atoms: {behaviour}", flush=True)
        offsets = atoms.positions - atoms.positions.mean(axis=0)
        forces = -self.parameters.k * offsets
        energy = 0.5 * self.parameters.k * float((offsets**2).sum())
        energy, forces = self._misbehave(behaviour, energy, forces)
        self.results = {"energy": energy, "forces": forces}

    def _misbehave(self, behaviour, energy, forces):
        if behaviour == "segfault":
            ctypes.string_at(0)
        elif behaviour == "hang":
            time.sleep(600)
        elif behaviour == "exit":
            os._exit(3)
        elif behaviour == "sysexit":
            sys.exit(4)
        elif behaviour == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif behaviour.startswith("raise"):
            _, kind, *message = behaviour.split(" ")
            raise ERRORS[kind](" ".join(message))
        elif behaviour == "unconverged" and self.parameters.maxiter < 100:
            raise SCFError("no convergence")
        elif behaviour == "silently_unconverged":
            self.converged = False
        elif behaviour == "terminated_at_its_end":
            sys.stdout = TerminatesWhenFlushed()  # by the worker, once it has the results
        elif behaviour == "nan":
            forces = forces * np.nan
        elif behaviour == "drift":
            forces = forces + 1.0
        elif behaviour == "large":
            forces = forces * 1e3
        return energy, forces


class SmallBasisCalculator(EMT):
    """EMT that errs as a basis that is too small does.

    ``pulay`` (GPa) is what the stress has beyond the slope of the energies, ``noise`` (eV) the amplitude of what
    energies have that no smooth curve has, ``force_error`` a factor on the forces.
    """

    default_parameters: ClassVar[dict[str, Any]] = EMT.default_parameters | {
        "pulay": 0.0, "noise": 0.0, "force_error": 1.0
    }  # fmt: skip

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        noise = self.parameters.noise * np.sin(3.0 * atoms.get_volume())
        self.results["energy"] += noise
        self.results["free_energy"] = self.results["energy"]
        self.results["forces"] = self.results["forces"] * self.parameters.force_error
        self.results["stress"] = self.results["stress"] + self.parameters.pulay * units.GPa * np.array(
            [1, 1, 1, 0, 0, 0]
        )


not_callable = 3
