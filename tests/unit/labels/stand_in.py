"""Programs that stand in for VASP, FHI-aims, ABINIT, ORCA and DFTB+: they write those codes' files, faults included.

``python stand_in.py SOCKET`` imports what they need once and forks for each program that runs;
:data:`PROGRAM` is that program, which starts at once. Its last word of the shell's line chooses among the moods
``ok``, ``unconverged``, ``until`` (unconverged until a setting says that this is another attempt), ``crash``,
``crash0``, ``refused`` ``newer`` (another version of VASP) and ``cut`` (outputs end in their middle).
Energies are those of a Morse crystal, so that a label's values can be checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import traceback
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.morse import MorsePotential
from ase.io import read
from ase.units import Bohr, GPa, Hartree

MOOD = "ok"
FINE = ("ok", "newer", "cut")
PROGRAM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    server.sendall(json.dumps([{mood!r}, os.getcwd(), {kind!r}, *sys.argv[1:]]).encode())
    server.shutdown(socket.SHUT_WR)
    status, _, printed = server.makefile("rb").read().partition(b" ")
sys.stdout.buffer.write(printed)
sys.exit(int(status))
"""


def reference(atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy (eV), forces (eV/Å) and stress (3 by 3, eV/Å³) that every stand-in gives."""
    atoms = atoms.copy()
    atoms.calc = MorsePotential(epsilon=0.6, r0=2.35, rho0=4.0, rcut1=3.0, rcut2=4.5)
    stress = atoms.get_stress(voigt=False) if atoms.pbc.all() else np.zeros((3, 3))
    return atoms.get_potential_energy(), atoms.get_forces(), stress


def lines(rows: np.ndarray, form: str = "%.10f", head: str = "", tail: str = "") -> str:
    return "\n".join(head + " ".join(form % x for x in row) + tail for row in rows)


def vasp() -> int:
    incar = dict(re.findall(r"^\s*(\w+)\s*=\s*(.*?)\s*$", Path("INCAR").read_text(), re.MULTILINE))
    if MOOD == "crash":
        print(
            " ----\n|  EEEEEE  VERY BAD NEWS! internal error in subroutine SGRCON: Found some non-integer element |\n"
        )
        return 1
    if MOOD == "crash0":
        print(" ZBRENT: fatal error in bracketing\n     please rerun with smaller EDIFF, or copy CONTCAR\n")
        return 0
    if MOOD == "refused":
        print(" Error reading item 'ENCUT' from file INCAR.")
        return 0
    atoms = read("POSCAR")
    energy, forces, stress = reference(atoms)
    vectors = [lines(x, head="<v> ", tail=" </v>") for x in (atoms.cell.array, atoms.get_scaled_positions())]
    structure = (
        f'<crystal><varray name="basis">{vectors[0]}</varray></crystal><varray name="positions">{vectors[1]}</varray>'
    )
    kbar = lines(-stress / (0.1 * GPa), head="<v> ", tail=" </v>")
    energies = "".join(f'<i name="{n}">{energy}</i>' for n in ("e_fr_energy", "e_wo_entrp", "e_0_energy"))
    symbols = "".join(f"<rc><c>{s}</c><c>1</c></rc>" for s in atoms.get_chemical_symbols())
    Path("vasprun.xml").write_text(
        f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling><generator><i name="version" type="string">6.4.1</i></generator>
<kpoints><varray name="kpointlist"><v>0 0 0</v></varray><varray name="weights"><v>1.0</v></varray></kpoints>
<parameters><i name="ISPIN">1</i></parameters>
<atominfo><atoms>{len(atoms)}</atoms><array name="atoms"><set>{symbols}</set></array></atominfo>
<structure name="initialpos">{structure}</structure>
<calculation><scstep><energy>{energies}</energy></scstep><structure>{structure}</structure>
<varray name="forces">{lines(forces, head="<v> ", tail=" </v>")}</varray><varray name="stress">{kbar}</varray>
<energy>{energies}</energy><eigenvalues><array><set><set><set><r> 0 1</r></set></set></set></array></eigenvalues>
<dos><i name="efermi">5.0</i></dos></calculation></modeling>"""
    )
    steps = int(incar.get("NELM", 60))
    good = MOOD in FINE or (MOOD == "until" and steps >= 200)
    version = "6.5.0 16Dec24" if MOOD == "newer" else "6.4.1 05Apr23"
    words = "because EDIFF is reached" if good else "EDIFF was not reached (unconverged)"
    Path("OUTCAR").write_text(
        f" vasp.{version}\n   TITEL  = PAW_PBE Si 05Jan2001\n   EDIFF  = 0.1E-03   stopping-criterion for ELM\n"
        f" NBANDS=    16\n---- Iteration      1({9 if good else steps:4d})  ---\n---- aborting loop {words} ----\n"
        f"  free  energy   TOTEN  = {energy:18.8f} eV\n E-fermi :   5.0000\n"
    )
    print("reached required accuracy" if good else "WARNING: not converged")
    return 0


def aims() -> int:
    if not Path("control.in").exists():
        print("  FHI-aims version      : 230612\n  * cannot open control.in")
        return 0
    control = Path("control.in").read_text()
    head = "          Invoking FHI-aims ...\n  FHI-aims version      : 230612\n"
    if MOOD == "crash":
        print(head, "  ** Error: lapack gave up at rank 0", file=sys.stdout)
        return 0
    if MOOD == "refused":
        print(head, "\n  * Unknown keyword xcc in control.in\n")
        return 0
    atoms = read("geometry.in", format="aims")
    energy, forces, stress = reference(atoms)
    steps = int((re.search(r"sc_iter_limit\s+(\d+)", control) or [0, "50"])[1])
    good = MOOD in FINE or (MOOD == "until" and steps >= 300)
    cell = lines(atoms.cell.array, "%16.8f", "  |")
    sites = "\n".join(
        f"  |{k + 1:5d}: Species {a.symbol:<4}        " + " ".join(f"{x:15.8f}" for x in a.position)
        for k, a in enumerate(atoms)
    )
    cycle = (
        "  Self-consistency cycle converged."
        if good
        else " * WARNING! SELF-CONSISTENCY CYCLE DID NOT CONVERGE\n * IN YOUR SELECTED MAXIMUM NUMBER OF ITERATIONS."
    )
    print(
        f"""{head}
  | Number of atoms                   : {len(atoms):8d}
  | Number of spin channels           :        1
  Input geometry:
  | Unit cell:
{cell}
  | Atomic structure:
  |       Atom                x [A]            y [A]            z [A]
{sites}
  | Number of Kohn-Sham states (occupied + empty):       20
  The structure contains        {int(sum(atoms.numbers))} atoms,  and a total of         28.000 electrons.
          Begin self-consistency loop: Initialization.
          Begin self-consistency iteration #    1
  Self-consistency cycle not yet converged - restarting mixer to attempt better convergence.
          Begin self-consistency loop: Re-initialization.
{cycle}
  Energy and forces in a compact form:
  | Total energy uncorrected      :         {energy:.15E} eV
  | Total energy corrected        :         {energy:.15E} eV  <-- do not rely on this value for anything but metals
  | Electronic free energy        :         {energy:.15E} eV
  Total atomic forces (unitary forces cleaned) [eV/Ang]:
{chr(10).join(f"  |{k + 1:5d}  " + " ".join(f"{x:.15E}" for x in f) for k, f in enumerate(forces))}

  |              Analytical stress tensor - Symmetrized               |
  |                  Cartesian components [eV/A**3]                   |
  |-------------------------------------------------------------------|
  |                x                y                z                |
  |                                                                   |
{chr(10).join(f"  |  {n}  " + " ".join(f"{x:16.8f}" for x in s) + "  |" for n, s in zip("xyz", stress, strict=True))}
  |                                                                   |
          Have a nice day.
"""
    )
    return 0


def orca() -> int:
    head = "                 * O   R   C   A *\n             Program Version 5.0.4 -  RELEASE  -\n"
    path = Path(sys.argv[1])
    if not path.exists():
        print(head)
        return 0
    text = path.read_text()
    if MOOD == "refused":
        print(head, "  INPUT ERROR\n  UNRECOGNIZED OR DUPLICATED KEYWORD(S) IN SIMPLE INPUT LINE\n  B4LYP")
        return 0
    if MOOD == "crash":
        print(head, "ORCA finished by error termination in GTOInt\n")
        return 0
    rows = re.search(r"\*xyz.*?\n(.*?)\n\*", text, re.DOTALL)[1].split("\n")
    symbols, positions = zip(*[(r.split()[0], [float(x) for x in r.split()[1:4]]) for r in rows], strict=True)
    atoms = Atoms(symbols, positions)
    energy, forces, _ = reference(atoms)
    good = MOOD in FINE
    if "engrad" in text.lower():
        gradient = "\n".join(f"{x:.12f}" for x in (-forces / (Hartree / Bohr)).ravel())
        Path("orca.engrad").write_text(
            f"#\n# Number of atoms\n#\n {len(atoms)}\n"
            f"#\n# The current total energy in Eh\n#\n {energy / Hartree:.12f}\n"
            f"#\n# The current gradient in Eh/bohr\n#\n{gradient}\n#\n# The atomic numbers and current coordinates\n#\n"
        )
    print(head, "  SCF CONVERGED AFTER  11 CYCLES" if good else " SCF NOT CONVERGED AFTER 125 CYCLES")
    print("Number of atoms                             ....", len(atoms))
    print("---------------------------------\nCARTESIAN COORDINATES (ANGSTROEM)\n---------------------------------")
    print("\n".join(f"  {a.symbol} " + " ".join(f"{x:12.6f}" for x in a.position) for a in atoms), "\n")
    print(f"FINAL SINGLE POINT ENERGY {energy / Hartree:22.12f}")
    print("                             ****ORCA TERMINATED NORMALLY****" if good else "")
    return 0


def dftb() -> int:
    head = "|  DFTB+ release 23.1\n"
    if not Path("dftb_in.hsd").exists():
        print(head)
        return 1
    if MOOD == "unconverged":
        print(head, "ERROR!\n-> SCC is NOT converged, maximal SCC iterations exceeded")
        return 0
    if MOOD == "refused":
        print(head, "ERROR!\n-> Detected unknown nodes in the input")
        return 1
    atoms = read("geo_end.gen")
    energy, forces, stress = reference(atoms)
    force = lines(forces / (Hartree / Bohr), "%.15E", " ")
    Path("results.tag").write_text(
        f"mermin_energy       :real:0:\n {energy / Hartree:.15E}\n"
        f"extrapolated0_energy:real:0:\n {energy / Hartree:.15E}\n"
        f"total_energy        :real:0:\n {energy / Hartree:.15E}\n"
        f"forces              :real:2:3,{len(atoms)}\n{force}\n"
        f"stress              :real:2:3,3\n{lines(-stress * Bohr**3 / Hartree, '%.15E', ' ')}\n"
        f"fermi_level         :real:1:1\n 0.0\nnumber_of_electrons :real:1:1\n 8.0\n"
    )
    Path("detailed.out").write_text(f" Total energy:   {energy / Hartree:.12f} H   {energy:.8f} eV\n SCC converged\n")
    print(head, "SCC converged")
    return 0


def abinit() -> int:
    if "--version" in sys.argv:
        print("9.10.3")
        return 0
    if MOOD == "refused":
        print("--- !ERROR\nsrc_file: m_parser.F90\nmessage: |\n    Found token: ecutt, unknown variable.\n...\n")
        return 14
    if MOOD == "crash":
        print("--- !BUG\nsrc_file: m_x.F90\nmessage: |\n    The eigensolver broke down.\n...\n")
        return 14
    print("--- !ScfConvergenceWarning\nmessage: |\n    nstep 30 was not enough SCF cycles to converge.\n...\n")
    return 0


def run(connection: socket.socket) -> None:
    """Be the program that ``connection`` asks for, and answer with exit code and output."""
    global MOOD
    MOOD, folder, *sys.argv = json.loads(connection.makefile("rb").read())
    os.chdir(folder)
    output = Path(folder) / f".printed-{os.getpid()}"
    status = 1
    with output.open("w") as stream, contextlib.redirect_stdout(stream):
        try:
            status = {"vasp": vasp, "aims": aims, "orca": orca, "dftb": dftb, "abinit": abinit}[sys.argv[0]]()
        except Exception:
            traceback.print_exc(file=stream)
    for path in Path(folder).glob("*") if MOOD == "cut" else ():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    printed = output.read_bytes()
    connection.sendall(f"{status} ".encode() + printed[: len(printed) // 2 if MOOD == "cut" else None])
    output.unlink()


def serve(address: str) -> None:
    """Fork for every program that connects, until this process is ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(8)
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                run(connection)
                os._exit(0)
            connection.close()


if __name__ == "__main__":
    serve(sys.argv[1])
