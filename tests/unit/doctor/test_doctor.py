"""The doctor finds what is broken and says how to mend it."""

import importlib.util
import json
import stat
from pathlib import Path

import pytest
from ase.build import molecule, mx2

from mlip.doctor import checks as doctor
from mlip.doctor.checks import Check, check_config, check_folder, check_slurm, check_threads, render_checks, run_checks
from mlip.doctor.slurm import job_requests

ROOT = Path(__file__).parents[3]
SINFO = "cpu*|(null)|16000|32|1-00:00:00\ngpu|gpu:a100:4(S:0-1)|500000+|64|infinite\n"
RULES = """
localrules:
    collect_dataset,

rule collect_dataset:
    resources:
        mem_mb=scaled(900000),

rule label_structures:
    resources:
        mem_mb=scaled(6000),
        runtime=scaled(240),
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder of stand-ins for Slurm's commands, alone on PATH; call it to write one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(command: str, output: str = "", code: int = 0) -> None:
        path = folder / command
        path.write_text(f"#!/bin/sh\nprintf '%s' '{output}'\nexit {code}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return write


@pytest.fixture
def working_slurm(slurm):
    slurm("sinfo", SINFO)
    for command in ("sbatch", "squeue", "sacct"):
        slurm(command)
    return slurm


def write_profile(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def write_config(tmp_path: Path, element: str, label: str = "{parameters: {xc: PBE}}") -> Path:
    path = tmp_path / "system.yaml"
    bulk = f"{{name: {element}, crystalstructure: fcc, a: 4.0}}"
    path.write_text(f"system: try\nstructures: [{{bulk: {bulk}}}]\nlabel: {label}\n")
    return path


def test_this_environment_is_healthy(tmp_path):
    checks = run_checks(root=tmp_path)
    assert [check for check in checks if check.status == "fail" and check.name != "Slurm"] == []
    assert {"torch", "kernels", "GPAW", "NetCDF", "neighbour lists", "Snakemake", "results"} <= {
        check.name for check in checks
    }
    assert not any(tmp_path.iterdir()), "checks must leave nothing behind"


def test_every_problem_comes_with_a_remedy(tmp_path):
    checks = run_checks(write_config(tmp_path, "U"), root=tmp_path)
    assert all(check.remedy for check in checks if check.status in ("warn", "fail"))


def test_an_unforeseen_error_is_a_failed_check(monkeypatch, tmp_path):
    def broken() -> Check:
        raise RuntimeError("libsomething.so: cannot open")

    monkeypatch.setattr(doctor, "check_vesin", broken)
    (found,) = [check for check in run_checks(root=tmp_path) if check.name == "neighbour lists"]
    assert found.status == "fail"
    assert "libsomething.so" in found.detail


def test_backend_mace_needs_mace_torch(monkeypatch, tmp_path):
    path = write_config(tmp_path, "Cu", "{calculator: ase.calculators.emt.EMT}")
    assert "MACE" not in {check.name for check in check_config(path)}
    path.write_text(path.read_text() + "train: {backend: mace}\n")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mace" else find_spec(name))
    (found,) = [check for check in check_config(path) if check.name == "MACE"]
    assert found.status == "fail"
    assert "make setup-mace" in found.remedy


@pytest.mark.parametrize(("value", "status"), [("1", "ok"), ("8", "warn"), (None, "info")])
def test_threads(monkeypatch, value, status):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if value:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert check_threads().status == status


def test_no_slurm_is_no_failure(slurm, tmp_path):
    assert check_slurm(tmp_path / "absent.yaml").status == "info"


def test_half_a_slurm_is_a_failure(slurm, tmp_path):
    slurm("squeue")
    found = check_slurm(tmp_path / "absent.yaml")
    assert found.status == "fail"
    assert "sbatch" in found.detail


def test_slurm_that_does_not_answer(working_slurm, tmp_path):
    working_slurm("sinfo", code=1)
    assert check_slurm(tmp_path / "absent.yaml").status == "fail"


@pytest.mark.parametrize(
    ("profile", "status", "words"),
    [
        ("default-resources: {slurm_partition: cpu}", "ok", "cpu, gpu"),
        ("default-resources: {slurm_partition: fast}", "fail", "'fast'"),
        ("set-resources: {train_committee: {slurm_partition: fast}}", "fail", "train_committee"),
        # The default partition, marked by sinfo, has no GPU.
        ('set-resources: {train_committee: {gres: "gpu:1"}}', "fail", "partition cpu has none"),
        ('set-resources: {train_committee: {slurm_partition: gpu, gres: "gpu:1"}}', "ok", "gpu"),
        ('set-resources: {train_committee: {slurm_partition: gpu, gres: "gpu:a100:4"}}', "ok", "gpu"),
        ('set-resources: {train_committee: {slurm_partition: gpu, gres: "gpu:h100:1"}}', "fail", "model h100"),
        ("set-resources: {train_committee: {slurm_partition: gpu, gpu: 8}}", "fail", "8 GPUs a node"),
        # The rule's own request, for which the profile has no other.
        ("retries: 1", "ok", "fits"),
        ("retries: 2", "warn", "label_structures asks for 18000 MB at attempt 3, partition cpu has 16000"),
        ("retries: 2\nset-resources: {label_structures: {slurm_partition: gpu}}", "ok", "fits"),
        ("set-resources: {label_structures: {mem_mb: 20000}}", "fail", "20000 MB"),
        ('set-resources: {label_structures: {runtime: "1500 * attempt"}}', "fail", "1440 at most"),
        ("default-resources: {slurm_account: physics}", "ok", "fits"),
        ("default-resources: {slurm_account: phisics}", "fail", "not one of yours"),
    ],
)
def test_slurm_profile_is_compared_with_the_cluster(working_slurm, tmp_path, profile, status, words):
    (tmp_path / "label.smk").write_text(RULES)
    working_slurm("sh", "physics\nmaterials")  # starts sacctmgr
    found = check_slurm(write_profile(tmp_path, profile), tmp_path)
    assert (found.status, words in found.detail) == (status, True), found


def test_a_cluster_without_a_default_partition_wants_one_named(working_slurm, tmp_path):
    working_slurm("sinfo", SINFO.replace("*", ""))
    found = check_slurm(write_profile(tmp_path, "default-resources: {mem_mb: 100}"), tmp_path)
    assert (found.status, "default" in found.detail, "cpu, gpu" in found.remedy) == ("warn", True, True)
    named = check_slurm(write_profile(tmp_path, "default-resources: {slurm_partition: cpu}"), tmp_path)
    assert named.status == "ok"


def test_a_slurm_that_shows_no_partition_is_a_failure(working_slurm, tmp_path):
    working_slurm("sinfo", "")
    found = check_slurm(write_profile(tmp_path, "default-resources: {mem_mb: 100}"), tmp_path)
    assert (found.status, "no partition" in found.detail) == ("fail", True), found


def test_requests_of_the_real_rules_are_read():
    requests = job_requests({"default-resources": {"mem_mb": 1}}, ROOT / "workflow/rules")
    assert {"label_structures", "train_committee", "explore_walkers", "assess_potential"} <= set(requests)
    assert {"measure_study", "train_study", "measure_study_in_loop", "run_experiment"} <= set(requests)
    assert "collect_dataset" not in requests  # runs where Snakemake does
    for name in set(requests) - {"default-resources"}:
        assert {"mem_mb", "runtime"} <= set(requests[name]), name


def test_requests_are_read_at_any_depth_and_through_derived_rules(tmp_path):
    (tmp_path / "label.smk").write_text(RULES)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    derived = (
        "rule other:\n    resources:\n        mem_mb=scaled(7),\n\n\nuse rule label_structures as label_again with:\n"
    )
    (tmp_path / "deep" / "er" / "more.smk").write_text(derived)
    requests = job_requests({}, tmp_path)
    assert requests["other"] == {"mem_mb": "7 * attempt"}
    assert (
        requests["label_again"]
        == requests["label_structures"]
        == {"mem_mb": "6000 * attempt", "runtime": "240 * attempt"}
    )


@pytest.mark.parametrize(("age", "status"), [(300, "ok"), (10, "warn")])
def test_squeue_must_remember_finished_jobs(working_slurm, tmp_path, age, status):
    working_slurm("scontrol", f"MinJobAge = {age} sec")
    assert check_slurm(write_profile(tmp_path, "slurm-status-command: squeue"), tmp_path).status == status


def test_slurm_without_accounting_needs_squeue(working_slurm, tmp_path):
    working_slurm("sacct", code=1)
    found = check_slurm(write_profile(tmp_path, "executor: slurm"))
    assert (found.status, "slurm-status-command: squeue" in found.remedy) == ("warn", True)
    assert check_slurm(write_profile(tmp_path, "slurm-status-command: squeue")).status == "ok"


def test_folder_that_does_not_exist_yet_is_fine(tmp_path):
    assert check_folder(tmp_path / "a" / "results").status == "ok"


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(**_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    found = check_folder(tmp_path)
    assert (found.status, "Permission denied" in found.detail) == ("fail", True)


@pytest.mark.parametrize(("free_gb", "status"), [(0.1, "fail"), (2, "warn"), (100, "ok")])
def test_free_space(tmp_path, monkeypatch, free_gb, status):
    usage = doctor.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: usage._replace(free=int(free_gb * 1e9)))
    assert check_folder(tmp_path).status == status


def test_element_without_a_paw_dataset(tmp_path):
    configuration, labeller, *_ = check_config(write_config(tmp_path, "U"))
    assert configuration.status == "ok"
    assert (labeller.status, "U" in labeller.detail) == ("fail", True)


def test_element_with_a_paw_dataset(tmp_path):
    assert [check.status for check in check_config(write_config(tmp_path, "Al"))][:2] == ["ok", "ok"]


def test_labeller_that_cannot_be_imported(tmp_path):
    _, labeller, *_ = check_config(write_config(tmp_path, "Cu", "{calculator: ase.calculators.emt.EMTT}"))
    assert (labeller.status, "EMTT" in labeller.detail) == ("fail", True)


@pytest.mark.parametrize(("command", "missing"), [("srun vasp_std", "vasp_std"), ("mpirun -n 4 vasp_std", "POTCAR")])
def test_program_behind_a_launcher_and_files_of_elements(tmp_path, monkeypatch, command, missing):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("srun", "mpirun", *(["vasp_std"] if missing == "POTCAR" else [])):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    profile = f"{{command: {command}, pp_path: {tmp_path}}}"
    label = f"{{calculator: ase.calculators.vasp.Vasp, parameters: {{xc: PBE}}, profile: {profile}}}"
    _, labeller, *_ = check_config(write_config(tmp_path, "Al", label))
    assert (labeller.status, missing in labeller.detail) == ("fail", True)


def test_invalid_configuration_is_reported_not_raised(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("system: try\nstructure: []\n")
    (found,) = check_config(path)
    assert (found.status, "structure" in found.detail) == ("fail", True)


def test_table_shows_remedies_and_brackets_as_they_are():
    text = render_checks([Check("Slurm", "fail", "asks for [gpu]", "Edit it."), Check("torch", "ok", "2.13")])
    assert "asks for [gpu]" in text
    assert "→ Edit it." in text


def write_copper(tmp_path: Path, **sections: object) -> Path:
    path = tmp_path / "copper.yaml"
    values = {"system": "copper", "structures": [{"bulk": {"name": "Cu"}}]}
    path.write_text(json.dumps(values | {"label": {"calculator": "ase.calculators.emt.EMT"}} | sections))
    return path


def test_walkers_that_cannot_begin_are_found(tmp_path):
    walkers = [{"ensemble": "nvt", "repeat": [30, 30, 30]}]
    found = {check.name: check for check in check_config(write_copper(tmp_path, explore={"walkers": walkers}))}
    assert found["walkers"].status == "fail"
    assert "makes 108000 atoms" in found["walkers"].detail
    later = [{"from_iteration": 1, "explore": {"walkers": [{"ensemble": "nvt", "repeat": [30, 30, 30]}]}}]
    assert "walkers" in {check.name for check in check_config(write_copper(tmp_path, overrides=later))}
    assert "walkers" not in {check.name for check in check_config(write_copper(tmp_path))}


def test_an_equation_of_state_of_what_has_no_volume_is_found(tmp_path):
    pair = tmp_path / "pair.xyz"
    molecule("H2").write(pair)
    structures = [{"bulk": {"name": "Cu", "cubic": True}}, {"file": str(pair)}]

    def found(assess: dict) -> dict[str, Check]:
        return {c.name: c for c in check_config(write_copper(tmp_path, structures=structures, assess=assess))}

    assert "equation of state" not in found({"eos_structures": [0]})
    wrong = found({"eos_structures": [0, 1]})["equation of state"]
    assert wrong.status == "fail"
    assert "a molecule has no volume" in wrong.detail
    assert "equation of state" not in found({"eos_structures": [1], "eos_volumes": []})


def test_kinds_wanted_in_vain_are_found(tmp_path):
    kinds = {"swap": 1}
    found = {check.name: check for check in check_config(write_copper(tmp_path, prepare={"kinds": kinds}))}
    assert found["prepare.kinds"].status == "warn"
    assert "prepare.kinds.swap: 1 is left out: it needs two elements" in found["prepare.kinds"].detail


def test_what_may_be_a_slab_is_told(tmp_path):
    layer = mx2(size=(2, 2, 1))
    layer.center(vacuum=2.5, axis=2)
    layer.pbc = True
    layer.write(tmp_path / "layer.cif")
    structures = [{"file": str(tmp_path / "layer.cif")}]
    found = {check.name: check for check in check_config(write_copper(tmp_path, structures=structures))}
    assert found["vacuum"].status == "warn"
    assert "layer.cif is taken for bulk, but 5.0 Å along c are empty" in found["vacuum"].detail


def test_settings_of_labels_that_often_are_wrong_are_told_before_any_label(tmp_path):
    label = "{calculator: ase.calculators.abinit.Abinit, parameters: {ecut: 300, kpts: [4, 4, 4]}}"
    *_, settings = check_config(write_config(tmp_path, "Al", label))
    assert (settings.name, settings.status) == ("label settings", "warn")
    assert "occopt 1: the occupations of a metal are fixed" in settings.detail
    smeared = label.replace("ecut: 300", "ecut: 300, occopt: 3")
    assert "label settings" not in [check.name for check in check_config(write_config(tmp_path, "Al", smeared))]


def test_a_molecule_without_the_cell_that_its_code_needs_is_told(tmp_path):
    molecule("H2O").write(tmp_path / "water.xyz")
    structures, parameters = [{"file": str(tmp_path / "water.xyz")}], {"mode": {"name": "pw", "ecut": 300}}
    label = {"calculator": "gpaw", "parameters": parameters}
    found = {check.name: check for check in check_config(write_copper(tmp_path, structures=structures, label=label))}
    assert found["cells"].status == "fail"
    assert "H2O has no cell, and GPAW computes in one" in found["cells"].detail
    assert "cells" not in {check.name for check in check_config(write_copper(tmp_path, structures=structures))}


def test_data_and_a_potential_that_are_not_there_or_do_not_fit_are_told(tmp_path, potential_folder):
    none = {"data": [{"file": str(tmp_path / "none.extxyz"), "settings": "same"}], "train": {"initial": str(tmp_path)}}
    found = {check.name: check for check in check_config(write_copper(tmp_path, **none))}
    assert (found["data"].status, "none.extxyz" in found["data"].detail) == ("fail", True)
    assert (found["train.initial"].status, "no file" in found["train.initial"].detail) == ("fail", True)
    other = {"train": {"initial": str(potential_folder)}}
    found = {check.name: check for check in check_config(write_copper(tmp_path, **other))}
    assert "knows Au, Cu, the structures hold Cu" in found["train.initial"].detail
    structures = [{"bulk": {"name": name}} for name in ("Au", "Cu")]
    fitting = write_copper(tmp_path, structures=structures, **other)
    assert not {"data", "train.initial"} & {check.name for check in check_config(fitting)}
