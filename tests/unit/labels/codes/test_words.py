"""The words that the codes print, as public outputs and parsers have them.

Where each form comes from: VASP's errors from custodian's ``VaspErrorHandler``, its box from outputs that are quoted in
public; FHI-aims' from Fortran that prints them and from parsers that look for ``scf_solver``; ORCA's from ASE's reader
and workflows that look for them; DFTB+'s banners from its recipes (17.1), a release and builds of conda-forge
(``development version``); ABINIT's from its reference outputs; those of SIESTA and NWChem from quoted outputs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mlip.labels.codes.code import Code
from mlip.labels.codes.program import ask_version
from mlip.labels.codes.registry import ANY_PROGRAM, CODES

BY_NAME: dict[str, Code] = {code.name: code for code in CODES} | {"any": ANY_PROGRAM}
BOX = """ -----------------------------------------------------------------------------
|                                                                             |
|     EEEEEEE  RRRRRR   RRRRRR   OOOOOOO  RRRRRR      ###     ###     ###     |
|     E        R     R  R     R  O     O  R     R     ###     ###     ###     |
|     EEEEE    RRRRRR   RRRRRR   O     O  RRRRRR       #       #       #      |
|     E        R   R    R   R    O     O  R   R                               |
|     EEEEEEE  R     R  R     R  OOOOOOO  R     R     ###     ###     ###     |
|                                                                             |
|     {}
|                                                                             |
|       ---->  I REFUSE TO CONTINUE WITH THIS SICK JOB ... BYE!!! <----       |
|                                                                             |
 -----------------------------------------------------------------------------
"""
VASP_OK = " vasp.6.4.1 05Apr23 complex\n---- Iteration  1(  9) ----\n---- aborting loop because EDIFF is reached ----\n"
NO_ENERGY = "FINAL SINGLE POINT ENERGY -1.0 (Wavefunction not fully converged!)\n  ****ORCA TERMINATED NORMALLY****\n"
COMPLETED = " Calculation completed.\n"
STARS = "  * Species Si, listed in geometry.in, is not described in input file control.in.\n * List of 1 species:\n"
ABORTED = "--- !ERROR\nsrc_file: m_parser.F90\nsrc_line: 1\nmpi_rank: 0\nmessage: |\n    {}\n...\n"


@pytest.mark.parametrize(
    ("name", "file", "text", "status", "words"),
    [
        ("VASP", "vasp.out", BOX.format("No INCAR found, STOPPING |"), "config_error", "VASP: No INCAR found"),
        ("VASP", "vasp.out", " Error EDDDAV: Call to ZHEGV failed. Returncode =   8 1  16\n", "unconverged", "ZHEGV"),
        ("VASP", "vasp.out", " ERROR EDDIAG: Call to routine ZHEEV failed! 1 1\n", "unconverged", "ZHEEV"),
        ("VASP", "vasp.out", " ERROR in subspace rotation PSSYEVX: not enough eigenvalues\n", "unconverged", "PSS"),
        ("VASP", "vasp.out", " REAL_OPTLAY: internal error (1)\n", "crashed", "REAL_OPTLAY"),
        ("VASP", "OUTCAR", VASP_OK + BOX.format("TOO FEW BANDS  |"), "config_error", "TOO FEW BANDS"),
        ("FHI-aims", "aims.out", "  Self-consistency cycle converged.\n *** scf_solver: SCF cycle not converged.\n",
         "unconverged", "scf_solver"),
        ("FHI-aims", "aims.out", STARS + " * Aborting.\n", "config_error", "not described in input file control.in"),
        ("FHI-aims", "aims.out", " * Too few basis functions provided for species.\n", "config_error", "Too few basis"),
        ("ORCA", "orca.out", NO_ENERGY, "unconverged", "Wavefunction not fully converged"),
        ("ORCA", "orca.out", "SCF NOT CONVERGED AFTER 125 CYCLES\nORCA finished by error termination in SCF\n",
         "unconverged", "AFTER 125 CYCLES"),
        ("DFTB+", "dftb.out", "WARNING!\n-> SCC is NOT converged, maximal SCC iterations\n", "unconverged", "SCC"),
        ("ABINIT", "abinit.abo", " scprqt:  WARNING -\n  nstep=   20 was not enough SCF cycles to converge;\n",
         "unconverged", "not enough SCF cycles"),
        ("ABINIT", "abinit.log", ABORTED.format("Found token: ecutt, unknown"), "config_error", "ecutt"),
        ("any", "siesta.out", "SCF_NOT_CONV: SCF did not converge  in maximum number.\n", "unconverged", "SCF"),
        ("ABINIT", "abinit.abo", " At SCF step   18, etot is converged : \n", "crashed", "is not whole"),
        ("CP2K", "cp2k.out", "", "unconverged", "does not say"),
        ("DFTB+", "dftb.out", "", "crashed", "there is no dftb.out"),
    ],
)  # fmt: skip
def test_what_a_code_says_went_wrong(tmp_path: Path, name: str, file: str, text: str, status: str, words: str) -> None:
    if text:
        (tmp_path / file).write_text(text)
    failure = BY_NAME[name].read_failure(tmp_path, True)
    assert failure is not None
    assert (failure.status, words in failure.reason) == (status, True), failure


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("VASP", "OUTCAR", VASP_OK + "this license is printed by a library\n"),
        ("ABINIT", "abinit.abo", " At SCF step   18, etot is converged : \n" + COMPLETED),
        (
            "ABINIT",
            "abinit.abo",
            " At SCF step    9   nres2 =  1.34E-11 < tolvrs=  1.00E-10 =>converged.\n" + COMPLETED,
        ),
        ("ABINIT", "abinit.abo", " At SCF step    8, forces are sufficiently converged :\n" + COMPLETED),
        (
            "FHI-aims",
            "aims.out",
            " * Note: something\n  Self-consistency cycle converged.\n          Have a nice day.\n",
        ),
        ("ORCA", "orca.out", "SCF CONVERGED AFTER  11 CYCLES\n ****ORCA TERMINATED NORMALLY****\n"),
    ],
)
def test_a_good_run_is_not_doubted(tmp_path: Path, name: str, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    assert BY_NAME[name].read_failure(tmp_path, True) is None


@pytest.mark.parametrize(
    ("name", "file", "text", "program"),
    [
        ("VASP", "OUTCAR", " vasp.6.4.1 05Apr23 (build Jun 01 2023) complex\n executed on\n", "VASP 6.4.1"),
        ("VASP", "vasp.out", " running on 4 total cores\n vasp.5.4.4.18Apr17 (build) complex\n", "VASP 5.4.4.18Apr17"),
        ("FHI-aims", "aims.out", "  FHI-aims version      : 191023\n  Commit number : 406e2a38d\n", "FHI-aims 191023"),
        ("ABINIT", "abinit.abo", "\n.Version   9.10.3  of ABINIT, released Jun 2023.\n", "ABINIT 9.10.3"),
        ("ORCA", "orca.out", "       Program Version 5.0.4 -  RELEASE  -\n", "ORCA 5.0.4"),
        ("DFTB+", "dftb.out", "|  DFTB+ (Release 17.1)\n", "DFTB+ 17.1"),
        ("DFTB+", "dftb.out", "|  DFTB+ release 24.1\n", "DFTB+ 24.1"),
        ("DFTB+", "dftb.out", "|  DFTB+ development version (commit: fd31d873, base: 25.1)\n",
         "DFTB+ commit: fd31d873, base: 25.1"),
        ("pw.x", "espresso.pwo", "     Program PWSCF v.7.2 starts on 1Jan2024\n", "pw.x 7.2"),
        ("CP2K", "cp2k.out", " CP2K| version string:     CP2K version 2023.1\n", "CP2K 2023.1"),
        ("any", "siesta.out", "Siesta Version: 5.4.2\nArchitecture: x\n", "the program 5.4.2"),
        ("any", "siesta.out", "Executable      : siesta\nVersion         : 5.0.0\n", "the program 5.0.0"),
        ("any", "nwchem.out", " Northwest Computational Chemistry Package (NWChem) 7.2.3\n", "the program 7.2.3"),
        ("any", "other.out", "nothing\n", None),
    ],
)  # fmt: skip
def test_the_version_is_read_after_the_run(
    tmp_path: Path, name: str, file: str, text: str, program: str | None
) -> None:
    (tmp_path / file).write_text(text)
    assert BY_NAME[name].read_program(tmp_path) == program


def test_abinit_says_its_version_when_asked(tmp_path: Path) -> None:
    program = tmp_path / "abinit"
    program.write_text("#!/bin/sh\necho 9.10.3\n")
    program.chmod(0o755)
    assert ask_version((str(program), "--version"), str(BY_NAME["ABINIT"].version_pattern)) == "9.10.3"
