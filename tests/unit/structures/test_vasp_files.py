"""Files as VASP writes them: several steps, unfinished runs, steps that are not converged, packed ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from mlip.structures.labelled import labelled_energy, labelled_forces, labelled_stress
from mlip.structures.labelled_files import read_labelled_file
from mlip.structures.vasp_files import unconverged_steps

NELM = 6
STEPS = [4, 6, 3]
"""Cycles of each ionic step: the second one took all it was allowed."""
Z = [0.50, 0.51, 0.52]
"""Place of the second atom at each step, of the cell's height."""


def energy(step: int) -> float:
    """The free energy of a step, eV."""
    return -7.25 - 0.01 * step


def outcar(*, told: bool, steps: int = 3) -> str:
    """An OUTCAR of two coppers; ``told`` where the version says that a step did not converge, as those from 6 on do."""
    text = """ vasp.6.4.2 20Jul23 complex
 POTCAR:    PAW_PBE Cu 22Jun2005
 POTCAR:    PAW_PBE Cu 22Jun2005
   k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   number of bands    NBANDS=      1
   ions per type =               2
   ISPIN  =      1    spin polarized calculation?
   NELM   =      6;   NELMIN=  2; NELMDL= -5     # of ELM steps
   EDIFF  = 0.1E-05   stopping-criterion for ELM
 k-points in reciprocal lattice and weights: Gamma
   0.00000000  0.00000000  0.00000000      1.000
"""
    return text + "".join(_outcar_step(number, told) for number in range(steps))


def _outcar_step(number: int, told: bool) -> str:
    line = "-" * 39
    text = ""
    for cycle in range(1, STEPS[number] + 1):
        text += f"\n{line} Iteration {number + 1:6d}({cycle:4d})  {line}\n\n"
        text += "  Free energy of the ion-electron system (eV)\n"
    if STEPS[number] < NELM:
        text += f"{line} aborting loop because EDIFF is reached {line}\n"
    elif told:
        text += f"{line} aborting loop EDIFF was not reached (unconverged)  {line}\n"
    return (
        text
        + f"""
  FORCE on cell =-STRESS in cart. coord.  units (eV):
  in kB      10.00000    10.00000    10.00000     0.00000     0.00000     0.00000
 VOLUME and BASIS-vectors are now :
      direct lattice vectors                 reciprocal lattice vectors
     4.000000000  0.000000000  0.000000000     0.250000000  0.000000000  0.000000000
     0.000000000  4.000000000  0.000000000     0.000000000  0.250000000  0.000000000
     0.000000000  0.000000000  4.000000000     0.000000000  0.000000000  0.250000000

 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
      0.00000      0.00000      0.00000         0.000000      0.000000      0.500000
      2.00000      2.00000      {4 * Z[number]:.5f}         0.000000      0.000000     -0.500000
 -----------------------------------------------------------------------------------

  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  = {energy(number):18.8f} eV

  energy  without entropy= {energy(number) + 0.1:16.8f}  energy(sigma->0) = {energy(number) + 0.05:16.8f}

"""
    )


def vasprun(steps: int = 3) -> str:
    """The vasprun.xml of the same run."""
    cell = '<crystal><varray name="basis"><v>4 0 0</v><v>0 4 0</v><v>0 0 4</v></varray></crystal>'
    place = '<varray name="positions"><v>0 0 0</v><v>0.5 0.5 {z}</v></varray>'
    text = f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <generator><i name="version" type="string">6.4.2</i></generator>
 <incar><i type="int" name="NELM">{NELM}</i><i name="EDIFF">0.00000100</i></incar>
 <kpoints><varray name="kpointlist"><v>0 0 0</v></varray><varray name="weights"><v>1</v></varray></kpoints>
 <parameters><separator name="electronic"><i name="ENMAX">400</i><separator name="electronic convergence">
  <i type="int" name="NELM">{NELM}</i><i name="EDIFF">0.00000100</i></separator></separator></parameters>
 <atominfo><atoms>2</atoms>
  <array name="atoms"><set><rc><c>Cu</c><c>1</c></rc><rc><c>Cu</c><c>1</c></rc></set></array></atominfo>
 <structure name="initialpos">{cell}{place.format(z=Z[0])}</structure>
"""
    for number in range(steps):
        rest = [0.5 * 0.2**cycle for cycle in range(STEPS[number])]
        rest = rest if STEPS[number] == NELM else [*rest[:-2], 1e-7, 0.0]
        cycles = "".join(
            f'<scstep><energy><i name="e_fr_energy">{energy(number) + r:.8f}</i><i name="e_wo_entrp">'
            f'{energy(number) + r + 0.1:.8f}</i><i name="e_0_energy">{energy(number) + r + 0.05:.8f}</i>'
            "</energy></scstep>\n"
            for r in rest
        )
        text += f""" <calculation>
{cycles}  <structure>{cell}{place.format(z=Z[number])}</structure>
  <varray name="forces"><v>0 0 0.5</v><v>0 0 -0.5</v></varray>
  <varray name="stress"><v>10 0 0</v><v>0 10 0</v><v>0 0 10</v></varray>
  <energy><i name="e_fr_energy">{energy(number):.8f}</i><i name="e_wo_entrp">{energy(number) + 0.1:.8f}</i>
   <i name="e_0_energy">{energy(number) + 0.05:.8f}</i></energy>
 </calculation>
"""
    return text + "</modeling>\n"


FILES = {"OUTCAR": outcar(told=True), "vasprun.xml": vasprun()}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("packed", [False, True])
def test_the_steps_of_a_run_and_which_of_them_did_not_converge(tmp_path: Path, name: str, packed: bool) -> None:
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(FILES[name].encode()) if packed else FILES[name].encode())
    steps = read_labelled_file(path)
    assert [labelled_energy(atoms) for atoms in steps] == pytest.approx([energy(k) for k in range(3)])
    assert [atoms.positions[1, 2] for atoms in steps] == pytest.approx([4 * z for z in Z])
    assert labelled_forces(steps[1])[1].tolist() == [0.0, 0.0, -0.5]
    assert labelled_stress(steps[0])[0] == pytest.approx(-10 / 1602.1766, rel=1e-5)
    assert [bool(atoms.info.get("unconverged")) for atoms in steps] == [False, True, False]


def test_older_versions_say_nothing_at_the_last_cycle(tmp_path: Path) -> None:
    (tmp_path / "OUTCAR").write_text(outcar(told=False))
    assert unconverged_steps(tmp_path / "OUTCAR", "vasp-out") == {1}


def test_a_run_that_was_stopped_by_hand_has_no_last_step(tmp_path: Path) -> None:
    text = outcar(told=True, steps=1).replace("because EDIFF is reached", "because hard stop was set")
    (tmp_path / "OUTCAR").write_text(text)
    assert unconverged_steps(tmp_path / "OUTCAR", "vasp-out") == {0}


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("OUTCAR", "Iteration      3(   2)"),
        ("OUTCAR", "TOTAL-FORCE"),
        ("vasprun.xml", "<scstep>"),
        ("vasprun.xml", 'name="forces"'),
    ],
)
def test_of_an_unfinished_run_the_whole_steps_count(tmp_path: Path, name: str, mark: str) -> None:
    """Killed in the last step: within its cycles, or while its forces were written."""
    text = FILES[name]
    (tmp_path / name).write_text(text[: text.rindex(mark) + len(mark) + 20])
    steps = read_labelled_file(tmp_path / name)
    assert [labelled_energy(atoms) for atoms in steps] == pytest.approx([energy(0), energy(1)])
    assert [bool(atoms.info.get("unconverged")) for atoms in steps] == [False, True]
