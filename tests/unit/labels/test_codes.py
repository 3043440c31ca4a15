"""Labels of codes that are not here, through programs that write those codes' files."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from mlip.config.label import Label
from mlip.io.files import sha256_file, sha256_of
from mlip.labels import labeller as labeller_module
from mlip.labels.codes.kmesh import check_mesh
from mlip.labels.codes.registry import CODES, find_code
from mlip.labels.guards import find_traps
from mlip.labels.identity import settings_identity
from mlip.labels.importing import LabelError, import_calculator
from mlip.labels.labeller import Labeller, Outcome, attach_label
from mlip.labels.process.parent import Worker
from mlip.labels.refusals import check_settings

STAND_IN = Path(__file__).with_name("stand_in.py")
spec = importlib.util.spec_from_file_location("stand_in", STAND_IN)
stand_in = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stand_in)
VASP, AIMS = "ase.calculators.vasp.Vasp", "ase.calculators.aims.Aims"
ABINIT, ORCA, DFTB = "ase.calculators.abinit.Abinit", "ase.calculators.orca.ORCA", "ase.calculators.dftb.Dftb"
ESPRESSO, CP2K = "ase.calculators.espresso.Espresso", "ase.calculators.cp2k.CP2K"
SETTINGS = {
    VASP: {"xc": "PBE", "encut": 250, "ediff": 1.0e-5, "kpts": [2, 2, 2], "gamma": True},
    AIMS: {"xc": "pbe", "k_grid": [2, 2, 2]},
    ORCA: {"orcasimpleinput": "PBE def2-SVP"},
    DFTB: {"Hamiltonian_SCC": "Yes", "Hamiltonian_MaxAngularMomentum_Si": "p", "kpts": {"density": 2.0}},
    ABINIT: {"ecut": 200, "pps": "psp8"},
}


def atoms_for(calculator: str) -> Atoms:
    atoms = Atoms("Si2", [[0, 0, 0], [0, 0.3, 2.4]]) if calculator == ORCA else bulk("Si", a=5.43)
    atoms.rattle(0.05, seed=1)
    atoms.info["structure_id"] = "one"
    return atoms


class KeptWorkers:
    """Workers that outlive their labeller: a process, with what it imports, for each calculator."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._kept = folder, dict[str, Worker]()

    def __call__(self, calculator: str, scratch: Path, launcher: Sequence[str] = ()) -> Worker:
        del scratch, launcher
        if calculator not in self._kept:
            folder = self._folder / f"worker-{len(self._kept)}"
            folder.mkdir()
            self._kept[calculator] = Kept(calculator, folder)
        return self._kept[calculator]

    def end(self) -> None:
        for worker in self._kept.values():
            Worker.__exit__(worker)


class Kept(Worker):
    def __exit__(self, *exception: object) -> None:
        pass


class Bench:
    """A folder with a stand-in for every program and the files that the codes read."""

    def __init__(self, folder: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._address = folder, address
        self.data = {"POTCAR": folder / "pp/potpaw_PBE/Si/POTCAR", "species": folder / "light/14_Si_default",
                     "skf": folder / "sk/Si-Si.skf", "psp8": folder / "psp/Si.psp8"}  # fmt: skip
        for path in self.data.values():
            path.parent.mkdir(parents=True)
            path.write_text("  PAW_PBE Si 05Jan2001\n   4.00000000000000\n  species Si\n    nucleus 14\n")
        for name in ("ASE_VASP_COMMAND", "VASP_COMMAND", "VASP_SCRIPT", "VASP_PP_PATH", "AIMS_SPECIES_DIR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("ASE_CONFIG_PATH", str(folder / "none.ini"))

    def profile(self, calculator: str, mood: str = "ok") -> dict:
        name = {VASP: "vasp_std", AIMS: "aims.x", ORCA: "orca", DFTB: "dftb+", ABINIT: "abinit"}[calculator]
        program = self.folder / name
        kind = name.split("_")[0].split(".")[0].rstrip("+")
        words = {"python": sys.executable, "address": self._address, "mood": mood, "kind": kind}
        program.write_text(stand_in.PROGRAM.format(**words))
        program.chmod(0o755)
        folder = str(self.folder)
        places = {
            VASP: {"pp_path": f"{folder}/pp"},
            AIMS: {"species_dir": f"{folder}/light"},
            ORCA: {},
            DFTB: {"slako_dir": f"{folder}/sk"},
            ABINIT: {"pp_paths": [f"{folder}/psp"]},
        }
        return {"command": str(program)} | places[calculator]

    def label(self, calculator: str, mood: str = "ok", atoms: Atoms | None = None, **changes) -> Outcome:
        settings = Label(
            calculator=calculator,
            parameters=SETTINGS[calculator] | changes.pop("parameters", {}),
            profile=self.profile(calculator, mood),
            **changes,
        )
        with Labeller(settings, self.folder / "store", self.folder / "scratch") as labeller:
            return labeller.label(atoms if atoms is not None else atoms_for(calculator))

    def log(self, outcome: Outcome) -> str:
        return (self.folder / "store" / "logs" / f"{outcome.key}.txt").read_text()


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Iterator[str]:
    """Address of the process that all stand-ins run in: each would import numpy and ASE by itself."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is too long for a socket
        address = f"{folder}/s"
        server = subprocess.Popen([sys.executable, str(STAND_IN), address])
        while not Path(address).exists() and server.poll() is None:
            time.sleep(0.05)
        yield address
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def workers(tmp_path_factory) -> Iterator[KeptWorkers]:
    kept = KeptWorkers(tmp_path_factory.mktemp("workers"))
    yield kept
    kept.end()


@pytest.fixture
def bench(tmp_path, monkeypatch, programs, workers) -> Bench:
    monkeypatch.setattr(labeller_module, "Worker", workers)
    return Bench(tmp_path, programs, monkeypatch)


@pytest.mark.parametrize("calculator", [VASP, AIMS, ORCA, DFTB])
def test_energy_forces_and_stress_from_one_run(bench, calculator):
    atoms = atoms_for(calculator)
    outcome = bench.label(calculator, atoms=atoms)
    assert (outcome.status, outcome.reason) == ("ok", ""), outcome.record["log_tail"]
    energy, forces, stress = stand_in.reference(atoms)
    results = outcome.record["results"]
    assert results["energy"] == pytest.approx(energy, abs=1e-6)
    assert np.abs(np.array(results["forces"]) - forces).max() < 1e-6
    if atoms.pbc.all():
        assert np.abs(np.array(results["stress"]) - stress.ravel()[[0, 4, 8, 5, 2, 1]]).max() < 1e-6
    assert bench.label(calculator, atoms=atoms).cached


@pytest.mark.parametrize(
    ("calculator", "words"),
    [(VASP, "EDIFF was not reached in 60 steps"), (AIMS, "DID NOT CONVERGE"), (ORCA, "NOT CONVERGED AFTER 125"),
     (DFTB, "SCC is NOT converged"), (ABINIT, "ScfConvergenceWarning")],
)  # fmt: skip
def test_unconverged_is_read_from_the_codes_own_output(bench, calculator, words):
    outcome = bench.label(calculator, "unconverged", escalations=())
    assert outcome.status == "unconverged"
    assert words in outcome.reason
    assert bench.label(calculator, "unconverged", escalations=()).cached, "remembered"


@pytest.mark.parametrize(("calculator", "limit"), [(VASP, "nelm"), (AIMS, "sc_iter_limit")])
def test_the_ladder_of_the_code(bench, calculator, limit):
    outcome = bench.label(calculator, "until")
    assert [a["status"] for a in outcome.record["attempts"]] == ["unconverged", "ok"]
    assert limit in outcome.record["changed"]
    assert outcome.settings_id == bench.label(calculator, "ok", atoms=bulk("Si", a=5.5)).settings_id


@pytest.mark.parametrize(
    ("calculator", "mood", "words"),
    [(VASP, "crash", "subroutine SGRCON"), (VASP, "crash0", "ZBRENT: fatal error"), (AIMS, "crash", "lapack gave up"),
     (ORCA, "crash", "error termination in GTOInt"), (ABINIT, "crash", "eigensolver broke down")],
)  # fmt: skip
def test_a_crash_keeps_the_codes_own_words_whatever_the_exit_code(bench, calculator, mood, words):
    outcome = bench.label(calculator, mood)
    assert (outcome.status, len(outcome.record["attempts"])) == ("crashed", 1)
    assert words in outcome.reason
    assert words in bench.log(outcome)
    assert not bench.label(calculator, mood).cached


@pytest.mark.parametrize(
    ("calculator", "words"),
    [(VASP, "Error reading item 'ENCUT'"), (AIMS, "Unknown keyword xcc"), (ORCA, "UNRECOGNIZED"),
     (DFTB, "unknown nodes"), (ABINIT, "ecutt, unknown variable")],
)  # fmt: skip
def test_a_refused_input_is_an_error_of_settings_on_the_first_label(bench, calculator, words):
    with pytest.raises(LabelError, match=rf"one: .*{words}.*log: "):
        bench.label(calculator, "refused")


@pytest.mark.parametrize(
    ("calculator", "file", "what"),
    [(VASP, "POTCAR", "no POTCAR"), (AIMS, "species", "no defaults for Si"), (DFTB, "skf", "no file .*Si-Si.skf"),
     (ABINIT, "psp8", "no pseudopotential of kind `psp8` for Si")],
)  # fmt: skip
def test_files_of_the_elements_count_by_content(bench, calculator, file, what):
    def key() -> str:
        return bench.label(calculator, "unconverged", escalations=()).key

    path = bench.data[file]
    first, again = key(), key()
    path.write_text(path.read_text() + "another\n")
    assert first == again != key()
    path.unlink()
    with pytest.raises(LabelError, match=what):
        key()


@pytest.mark.parametrize(("calculator", "file"), [(VASP, "POTCAR"), (AIMS, "species"), (DFTB, "skf")])
def test_a_label_names_the_files_of_its_elements(bench, calculator, file):
    def files() -> str:
        outcome = bench.label(calculator)
        return attach_label(atoms_for(calculator), outcome, 0).info["label_files"]

    path = bench.data[file]
    before = files()
    assert before == f"{'Si-Si' if calculator == DFTB else 'Si'}:{sha256_file(path)[:12]}"
    path.write_text(path.read_text() + "another\n")
    assert before != files()


@pytest.mark.parametrize(
    ("calculator", "parameters", "message"),
    [
        (VASP, {"encutt": 250}, r"encutt.*is `encut` meant"),
        (VASP, {"nsw": 10}, "nsw.*moves atoms"),
        (VASP, {"icharg": 11}, "icharg.*density fixed"),
        (VASP, {"directory": "work"}, "directory.*private folder"),
        (AIMS, {"postprocess_anyway": True}, "postprocess_anyway.*did not converge"),
        (AIMS, {"relax_geometry": "bfgs 1e-2"}, "relax_geometry.*moves atoms"),
        (ORCA, {"orcasimpleinput": "PBE Opt"}, "Opt.*moves atoms"),
        (ORCA, {"orcablocks": "%scf ConvForced false end"}, "ConvForced.*did not converge"),
        (DFTB, {"Hamiltonian_ConvergentSCCOnly": "No"}, "ConvergentSCCOnly.*did not converge"),
        (DFTB, {"Driver_": "ConjugateGradient"}, "Driver_.*moves atoms"),
        (ABINIT, {"ionmov": 2}, "ionmov.*no single point"),
        (ESPRESSO, {"input_data": {"electrons": {"scf_must_converge": ".false."}}}, "scf_must_converge"),
        (ESPRESSO, {"label": "x"}, "label.*private folder"),
        ("ase.calculators.emt.EMT", {"directory": "x"}, "directory.*private folder"),
        ("ase.calculators.octopus.Octopus", {"directory": "x"}, "directory.*private folder"),
    ],
)
def test_settings_that_corrupt_labels_silently_are_refused(calculator, parameters, message):
    with pytest.raises(LabelError, match=message):
        check_settings(Label(calculator=calculator, parameters=parameters))


def test_an_unknown_key_of_a_profile_is_named():
    with pytest.raises(LabelError, match=r"label.profile.pseudodir.*command, pseudo_dir"):
        check_settings(Label(calculator=ESPRESSO, profile={"pseudodir": "x"}))


@pytest.mark.parametrize(
    ("calculator", "inert", "deciding"),
    [
        (VASP, [{"ncore": 4}, {"npar": 2}, {"kpar": 2}, {"command": "mpirun -n 16 vasp_std"}, {"lwave": True},
          {"nsw": 0}, {"isif": 2}, {"ibrion": -1}, {"istart": 0}, {"lorbit": 11}],
         [{"encut": 300}, {"ispin": 2}, {"custom": {"lhyperfine": True}}]),
        (AIMS, [{"walltime": 100}, {"output_level": "MD_light"}, {"output": ["hirshfeld"]}], [{"xc": "pw-lda"}]),
        (ABINIT, [{"npkpt": 4}, {"autoparal": 1}, {"prtdos": 2}], [{"ecut": 300}]),
        (ORCA, [{"orcablocks": "%pal nprocs 16 end"}, {"orcablocks": "%maxcore 4000"},
                {"orcasimpleinput": "PBE def2-SVP PAL8"}, {"orcablocks": "%output Print[P_Basis] 2 end"}],
         [{"orcablocks": "%cpcm epsilon 80 end"}]),
        (DFTB, [{"slako_dir": "/elsewhere"}, {"Options_WriteChargesAsText": "Yes"}, {"Analysis_WriteBandOut": "No"}],
         [{"Hamiltonian_SCC": "No"}]),
    ],
)  # fmt: skip
def test_the_key_holds_what_decides_and_nothing_else(bench, calculator, inert, deciding):
    def identity(**changes) -> str:
        return sha256_of(settings_identity(calculator, SETTINGS[calculator] | changes, bench.profile(calculator)))

    plain = identity()
    assert [identity(**changes) == plain for changes in inert] == [True] * len(inert)
    assert [identity(**changes) == plain for changes in deciding] == [False] * len(deciding)


def test_what_ase_writes_from_the_structure_is_no_part_of_pw_xs_key():
    def key(system: dict, **control) -> str:
        data = {"system": {"ecutwfc": 30} | system, "control": control}
        return sha256_of(settings_identity(ESPRESSO, {"input_data": data}, {"command": "true"}))

    plain = key({})
    assert key({"nat": 8, "ntyp": 1, "ibrav": 0}, calculation="scf", forc_conv_thr=1e-4) == plain
    assert key({"nat": 2, "ntyp": 2}) == plain
    assert key({"nbnd": 20}) != plain


@pytest.mark.parametrize(
    ("inp", "same"),
    [("&GLOBAL\n PROJECT x\n PRINT_LEVEL LOW\n WALLTIME 3600\n&END GLOBAL", True),
     ("&FORCE_EVAL\n &DFT\n  &PRINT\n   &MO\n    EIGENVALUES\n   &END MO\n  &END PRINT\n &END DFT\n&END", True),
     ("&FORCE_EVAL\n &DFT\n  UKS\n &END DFT\n&END", False),
     ("&FORCE_EVAL\n &DFT\n  &PRINT\n  &END\n  LSD\n &END DFT\n&END", False),
     ("&FORCE_EVAL\n &DFT\n  &SCF\n   &OT\n   &END OT\n  &END\n &END DFT\n&END", False)],
)  # fmt: skip
def test_what_cp2k_prints_is_no_part_of_its_key(tmp_path, inp, same):
    for name in ("BASIS_MOLOPT", "POTENTIAL"):
        (tmp_path / name).write_text(name)
    places = {"command": "true -s", "data_dir": str(tmp_path)}
    keys = [sha256_of(settings_identity(CP2K, {"inp": text}, places)) for text in ("", inp)]
    assert (keys[0] == keys[1]) is same


@pytest.mark.parametrize("calculator", [AIMS, ABINIT, ORCA, DFTB])
def test_the_programs_version_is_part_of_the_key(bench, calculator):
    program = settings_identity(calculator, SETTINGS[calculator], bench.profile(calculator))["program"]
    assert any(version in program for version in ("230612", "9.10.3", "5.0.4", "23.1"))


@pytest.mark.parametrize(
    ("calculator", "program"),
    [(VASP, "VASP 6.4.1"), (AIMS, "FHI-aims 230612"), (ORCA, "ORCA 5.0.4"), (DFTB, "DFTB+ 23.1")],
)
def test_a_label_names_the_program_that_made_it(bench, calculator, program):
    outcome = bench.label(calculator)
    assert outcome.record["ran"] == program
    assert attach_label(atoms_for(calculator), outcome, 0).info["label_program"] == program


def test_another_version_that_only_a_run_tells_stops_at_its_first_label(bench):
    bench.label(VASP)
    with pytest.raises(LabelError, match=r"program is now VASP 6\.5\.0, and was VASP 6\.4\.1 .*MLIP_LABEL_STORE"):
        bench.label(VASP, "newer", atoms=bulk("Si", a=5.5))
    assert bench.label(VASP, "newer").cached, "what is there is of the first version"
    assert bench.label(VASP, atoms=bulk("Si", a=5.5)).status == "ok"


OWN = """
import os
from ase.calculators.vasp import Vasp

class Mine(Vasp):
    pass

def made(command, pp_path, **parameters):
    os.environ["VASP_PP_PATH"] = pp_path
    return Mine(command=command, **parameters)
"""


def test_another_potcar_under_the_same_name_is_found_in_a_users_own_calculator(bench, monkeypatch):
    (bench.folder / "own_vasp.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(bench.folder))
    settings = Label(calculator="own_vasp.made", parameters=SETTINGS[VASP] | bench.profile(VASP))

    def label(a: float) -> Outcome:
        with Labeller(settings, bench.folder / "store", bench.folder / "scratch") as labeller:
            return labeller.label(bulk("Si", a=a))

    first = label(5.4)
    assert (first.status, first.record["ran"]) == ("ok", "VASP 6.4.1"), first.reason
    assert "`own_vasp.made` makes ASE's calculator of VASP" in " ".join(first.record["warnings"])
    content = sha256_file(bench.data["POTCAR"])
    assert attach_label(bulk("Si"), first, 0).info["label_files"] == f"Si:{content[:12]}"
    assert label(5.5).status == "ok"
    bench.data["POTCAR"].write_text(bench.data["POTCAR"].read_text() + "another\n")
    with pytest.raises(LabelError, match=r"file-Si is now .*, and was"):
        label(5.6)


@pytest.mark.parametrize("calculator", [VASP, AIMS, ORCA, DFTB])
def test_outputs_that_end_in_their_middle_are_a_crash_and_stop_nothing(bench, calculator):
    outcome = bench.label(calculator, "cut", escalations=())
    assert outcome.status in ("crashed", "unconverged"), outcome.reason
    assert outcome.record["results"] is None


def test_a_potcar_that_changes_while_a_label_is_made_is_found(bench, monkeypatch):
    run = Labeller._run_ladder

    def run_and_change(labeller: Labeller, *arguments) -> dict:
        record = run(labeller, *arguments)
        bench.data["POTCAR"].write_text(bench.data["POTCAR"].read_text() + "another\n")
        return record

    monkeypatch.setattr(Labeller, "_run_ladder", run_and_change)
    with pytest.raises(LabelError, match=r"a file that VASP reads.* has changed .* dropped"):
        bench.label(VASP)
    assert not list((bench.folder / "store").glob("??/*.json"))


def test_folders_of_data_may_hold_environment_variables(bench, monkeypatch):
    monkeypatch.setenv("MY_DATA", str(bench.folder))
    files = find_code(VASP).element_files(["Si"], {"xc": "PBE"}, {"pp_path": "$MY_DATA/pp"})
    assert files == {"Si": {"sha256": sha256_file(bench.data["POTCAR"])}}


def test_a_missing_program_is_named(bench):
    with pytest.raises(LabelError, match=r"no program `aims_of_mine.x` here"):
        settings_identity(AIMS, SETTINGS[AIMS], {"command": "aims_of_mine.x"})


@pytest.mark.parametrize("code", [code for code in CODES if code.name != "tblite"], ids=lambda code: code.name)
def test_every_code_names_calculators_that_exist(code):
    for path in code.calculators:
        import_calculator(path)
        assert find_code(path) is code
    assert code.tells_convergence


def test_charge_and_multiplicity_reach_the_calculator_or_are_refused():
    for path, name in ((VASP, "charge"), (AIMS, "charge"), (ABINIT, "charge"), (ORCA, "charge")):
        assert find_code(path).with_state({}, -1.0, 2)[name] == -1
    system = find_code(ESPRESSO).with_state({"input_data": {"system": {"ecutwfc": 15}}}, 1.0, None)
    assert system == {"input_data": {"system": {"ecutwfc": 15, "tot_charge": 1.0}}}
    with pytest.raises(LabelError, match="carries a charge 1"):
        find_code("ase.calculators.emt.EMT").with_state({}, 1.0, None)
    with pytest.raises(LabelError, match="multiplicity 3"):
        find_code("gpaw").with_state({}, 0.0, 3)


def test_a_charged_structure_is_refused_where_nobody_is_told(bench):
    atoms = bulk("Cu", cubic=True)
    atoms.info["charge"] = 1
    with (
        pytest.raises(LabelError, match="carries a charge 1, which the calculator is not told"),
        Labeller(Label(calculator="ase.calculators.emt.EMT"), bench.folder) as labeller,
    ):
        labeller.label(atoms)


SMALL, LARGE = bulk("Si", a=5.4), bulk("Si", a=5.4, cubic=True)


@pytest.mark.parametrize(
    "parameters", [{"kpts": [3, 3, 3]}, {"kpts": {"size": [3, 3, 3], "gamma": True}}, {"k_grid": [3, 3, 3]}]
)
def test_one_fixed_mesh_for_cells_of_different_size_is_refused(parameters):
    with pytest.raises(LabelError, match=r"\[3, 3, 3\].*Si2.*Si8.*as fine as \[6, 6, 6\].*density"):
        check_mesh(parameters, [SMALL, LARGE])


def test_a_mesh_that_fits_is_not_refused():
    strained = [LARGE.copy() for _ in range(3)]
    for atoms, scale in zip(strained, (0.93, 1.0, 1.08), strict=True):
        atoms.set_cell(atoms.cell.array * [[scale, 1, 1], [1, 1, 1], [1, 1, 1 / scale]], scale_atoms=True)
    check_mesh({"kpts": [3, 3, 3]}, strained)
    check_mesh({"kpts": {"density": 3.0}}, [SMALL, LARGE])
    check_mesh({"kspacing": 0.3}, [SMALL, LARGE])
    check_mesh({"kpts": [20, 20, 20]}, [SMALL, LARGE])
    check_mesh({"kpts": [1, 1, 1]}, [LARGE, molecule("H2O")])


def test_vacuum_needs_no_k_points_as_fine():
    boxed = [molecule("H2O", vacuum=vacuum, pbc=True) for vacuum in (3.0, 8.0)]
    check_mesh({"kpts": [1, 1, 1]}, boxed)
    slabs = [fcc111("Al", (1, 1, 3), vacuum=vacuum, periodic=True) for vacuum in (6.0, 12.0)]
    check_mesh({"kpts": [6, 6, 1]}, slabs)
    with pytest.raises(LabelError, match=r"\[6, 6, 1\] is as fine as \[12, 12, 1\]"):
        check_mesh({"kpts": [6, 6, 1]}, [slabs[0], slabs[0] * (2, 2, 1)])


@pytest.mark.parametrize(
    "name", ["octopus.Octopus", "elk.ELK", "siesta.Siesta", "gaussian.Gaussian", "crystal.CRYSTAL"]
)
def test_any_program_has_a_private_folder_and_the_command_of_its_profile(tmp_path, name):
    path = f"ase.calculators.{name}"
    code = find_code(path)
    assert code.runs_program
    parameters, profile = code.split({"profile": {"command": "srun -n 4 program"}}, {})
    calculator = code.build(import_calculator(path), parameters, profile, tmp_path, bulk("Si"))
    assert Path(calculator.directory) == tmp_path
    assert calculator.profile.command == "srun -n 4 program"


@pytest.mark.parametrize(
    ("kpts", "expected"),
    [({"density": 2.5}, {"kpts": [6, 6, 6]}),
     ({"size": [3, 3, 3], "gamma": True}, {"ngkpt": [3, 3, 3], "nshiftk": 1, "shiftk": [0.0, 0.0, 0.0]}),
     ([2, 2, 2], {"kpts": [2, 2, 2]})],
)  # fmt: skip
def test_abinit_gets_numbers_of_k_points(tmp_path, kpts, expected):
    """ASE's Abinit would format a mapping as numbers, and fail."""
    from ase.calculators.abinit import Abinit

    made = find_code(ABINIT).build(Abinit, {"kpts": kpts}, {"pp_paths": ["/psp"]}, tmp_path, bulk("Si", a=5.43))
    assert {key: made.parameters[key] for key in ("kpts", "ngkpt", "nshiftk", "shiftk") if key in made.parameters} == (
        expected
    )


@pytest.mark.parametrize(
    ("calculator", "meshes"),
    [("gpaw", [{"kpts": [3, 3, 3]}]), (VASP, [{"kpts": [3, 3, 3]}, {"KSPACING": 0.3}]), (AIMS, [{"k_grid": [3, 3, 3]}]),
     (ESPRESSO, [{"kspacing": 0.2}, {"additional_cards": ["K_POINTS automatic", "3 3 3 0 0 0"]}]),
     (CP2K, [{"kpts": {"density": 2}}, {"inp": "&FORCE_EVAL\n&DFT\n&KPOINTS\n&END\n&END\n&END"}]),
     (DFTB, [{"Hamiltonian_KPointsAndWeights_": "SupercellFolding"}]), ("tblite.ase.TBLite", [])],
)  # fmt: skip
def test_gamma_alone_in_a_small_cell_is_told_for_every_code_that_begins_there(calculator, meshes):
    def told(atoms: Atoms, parameters: dict) -> bool:
        return any("Γ only" in warning for warning in find_traps(atoms, calculator, parameters))

    slab = fcc111("Al", (1, 1, 3), vacuum=8.0)
    molecule_in_a_box, atom_in_a_box = molecule("H2O"), Atoms("Si", cell=[9, 9, 9], pbc=True)
    molecule_in_a_box.center(6.0)
    for small in (bulk("Al"), bulk("Si", cubic=True), slab):
        assert told(small, {"xc": "PBE"})
        assert not any(told(small, mesh) for mesh in meshes)
    boxed = [molecule(name, vacuum=3.0, pbc=True) for name in ("H2O", "CH3CH2OH", "OH")]
    assert told(fcc111("Al", (1, 1, 3), vacuum=40.0, periodic=True), {"xc": "PBE"})
    for other in (bulk("Si", cubic=True) * 2, molecule("H2O"), molecule_in_a_box, atom_in_a_box, *boxed):
        assert not told(other, {"xc": "PBE"})
