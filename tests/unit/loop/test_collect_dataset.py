"""Collecting labels: splits that never move, failures that are counted, outliers that are seen."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.config.loop import Collect
from mlip.io.extxyz import read_structures, write_structures
from mlip.io.files import read_json, sha256_of, write_json
from mlip.loop.collect_dataset import DatasetError, collect_dataset, screen_energies
from mlip.structures.roles import SPLITS, split_of


def labelled(number: int, energy_per_atom: float = -5.0) -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.01, seed=number)
    forces = np.zeros((len(atoms), 3))
    atoms.calc = SinglePointCalculator(atoms, energy=energy_per_atom * len(atoms), forces=forces, stress=np.zeros(6))
    atoms.info.update(structure_id=f"s-{number}", label_key=sha256_of(number), origin="rattle", reason="initial")
    return atoms


def record(number: int, status: str = "ok") -> dict:
    return {
        "structure_id": f"s-{number}",
        "key": sha256_of(number),
        "status": status,
        "reason": "" if status == "ok" else "because",
        "attempts": 1,
        "cached": False,
        "core_seconds": 2.0,
        "wall_seconds": 1.0,
    }


def shard(folder: Path, numbers: range, failed: tuple[int, ...] = ()) -> tuple[list[Path], list[Path]]:
    structures, records = folder / "shard_000.extxyz", folder / "shard_000.json"
    write_structures(structures, [labelled(n) for n in numbers if n not in failed])
    rows = [record(n, "unconverged" if n in failed else "ok") for n in numbers]
    write_json(records, {"iteration": 0, "shard": 0, "planned": len(numbers), "records": rows})
    return [structures], [records]


def collect(folder: Path, numbers: range, previous: Path | None = None, iteration: int = 0, **options: object) -> Path:
    out = folder / f"collect-{iteration}"
    shards, records = shard(folder / f"shards-{iteration}", numbers, options.pop("failed", ()))
    options = {"energy_window": 5.0, "max_failed_fraction": 0.3, **options}
    collect_dataset(
        shards, records, previous, iteration=iteration, settings=Collect(test_fraction=0.1), out=out, **options
    )
    return out


def test_split_is_stable_when_data_is_added(tmp_path: Path) -> None:
    first = collect(tmp_path, range(60))
    second = collect(tmp_path, range(60, 120), previous=first, iteration=1)
    for split in SPLITS:
        before = {a.info["label_key"] for a in read_structures(first / f"{split}.extxyz")}
        after = {a.info["label_key"] for a in read_structures(second / f"{split}.extxyz")}
        assert before <= after
        assert before
    assert len(read_structures(second / "new.extxyz")) == 60


def test_split_shares_follow_the_settings() -> None:
    settings = Collect(valid_fraction=0.2, test_fraction=0.1)
    splits = []
    for n in range(4000):
        atoms = Atoms("Si")
        atoms.info = {"label_key": sha256_of(n), "origin": "rattle"}
        splits.append(split_of(atoms, settings))
    assert splits.count("valid") / 4000 == pytest.approx(0.2, abs=0.03)
    assert splits.count("test") / 4000 == pytest.approx(0.1, abs=0.03)


def test_structure_labelled_again_counts_once(tmp_path: Path) -> None:
    first = collect(tmp_path, range(20))
    second = collect(tmp_path, range(10, 30), previous=first, iteration=1)
    counts = read_json(second / "dataset.json")
    assert sum(counts[split] for split in SPLITS) == 30
    assert counts["usable_new"] == 10
    assert counts["labels_total"] == 40


def test_failures_are_reported_and_allowed_up_to_the_limit(tmp_path: Path) -> None:
    out = collect(tmp_path, range(20), failed=(3, 7), max_failed_fraction=0.1)
    counts = read_json(out / "dataset.json")
    assert counts["failed_new"] == 2
    assert {f["structure_id"] for f in counts["failures"]} == {"s-3", "s-7"}
    assert counts["core_seconds"] == 40.0


@pytest.mark.parametrize(
    ("failed", "expected"), [((1, 2, 3), "3 of 20 labels failed"), (tuple(range(20)), "all 20 labels")]
)
def test_too_many_failures_stop_the_loop(tmp_path: Path, failed: tuple[int, ...], expected: str) -> None:
    with pytest.raises(DatasetError, match=expected) as caught:
        collect(tmp_path, range(20), failed=failed, max_failed_fraction=0.1)
    assert "--forcerun" in str(caught.value)
    assert "unconverged" in str(caught.value)


def test_energy_outlier_is_left_out_and_listed() -> None:
    structures = [labelled(n, -5.0 + 0.01 * n) for n in range(10)] + [labelled(99, +20.0)]
    kept, outliers = screen_energies(structures, [], window=5.0)
    assert len(kept) == 10
    assert [o["structure_id"] for o in outliers] == ["s-99"]


def test_outlier_in_a_small_batch_is_judged_by_the_earlier_data() -> None:
    known = [labelled(n) for n in range(10)]
    kept, outliers = screen_energies([labelled(50), labelled(51, 900.0)], known, window=5.0)
    assert [a.info["structure_id"] for a in kept] == ["s-50"]
    assert len(outliers) == 1


def test_outlier_does_not_tilt_the_composition_fit() -> None:
    structures = []
    for n in range(12):
        atoms = labelled(n)
        symbols = ["Ge"] * (n % 7 + 1) + ["Si"] * (7 - n % 7)
        atoms.set_chemical_symbols(symbols)
        energy = -4.0 * symbols.count("Ge") - 5.0 * symbols.count("Si") + (12_000.0 if n == 6 else 0.0)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((8, 3)))
        structures.append(atoms)
    kept, outliers = screen_energies(structures, [], window=5.0)
    assert [o["structure_id"] for o in outliers] == ["s-6"]
    assert len(kept) == 11


def test_labels_of_two_settings_do_not_mix(tmp_path: Path) -> None:
    first = collect(tmp_path, range(20))
    for path in first.glob("*.extxyz"):
        structures = read_structures(path)
        for atoms in structures:
            atoms.info["label_settings"] = "other"
        write_structures(path, structures)
    with pytest.raises(DatasetError, match="different settings") as caught:
        collect(tmp_path, range(20, 30), previous=first, iteration=1)
    for rule in ("label_structures", "label_references", "label_isolated_atoms"):
        assert rule in str(caught.value).partition("--forcerun")[2]


@pytest.mark.parametrize("origin", ["walker", "elastic"])
def test_what_was_chosen_to_teach_trains_and_audits_never_do(origin: str) -> None:
    """Earlier versions split by a hash of the walker: of the demo's 12 labels chosen for iteration 2, 0 trained."""
    settings = Collect(valid_fraction=0.4, test_fraction=0.4)
    for walker in range(30):
        atoms = Atoms("Si")
        atoms.info = {"origin": origin, "iteration": 1, "walker": walker, "label_key": sha256_of([walker, 0])}
        for reason, role in (("uncertain", "train"), ("acquired", "train"), ("audit", "test")):
            atoms.info["reason"] = reason
            assert split_of(atoms, settings) == role


@pytest.mark.parametrize("reason", ["initial", "existing"])
def test_of_what_nobody_chose_a_share_is_held_out(reason: str) -> None:
    splits = []
    for n in range(200):
        atoms = Atoms("Si")
        atoms.info = {"label_key": sha256_of(n), "origin": "rattle", "reason": reason}
        splits.append(split_of(atoms, Collect(valid_fraction=0.2, test_fraction=0.1)))
    assert 25 < splits.count("valid") < 60
    assert 8 < splits.count("test") < 40


def test_starting_structures_train() -> None:
    start = Atoms("Si")
    start.info = {"origin": "start"}
    for n in range(50):
        start.info["label_key"] = sha256_of(n)
        assert split_of(start, Collect()) == "train"


def test_alloys_of_different_composition_are_no_outliers() -> None:
    structures = []
    for n in range(12):
        atoms = labelled(n)
        symbols = ["Ge"] * (n % 5) + ["Si"] * (8 - n % 5)
        atoms.set_chemical_symbols(symbols)
        energy = -50.0 * symbols.count("Ge") - 5.0 * symbols.count("Si")
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((8, 3)))
        structures.append(atoms)
    kept, outliers = screen_energies(structures, [], window=1.0)
    assert len(kept) == 12
    assert outliers == []


def test_empty_iteration_keeps_the_old_data(tmp_path: Path) -> None:
    first = collect(tmp_path, range(20))
    second = collect(tmp_path, range(0), previous=first, iteration=1)
    assert read_json(second / "dataset.json")["train"] == read_json(first / "dataset.json")["train"]
    assert read_structures(second / "new.extxyz") == []


def collect_changed(folder: Path, change: dict[str, object], other: dict[str, object]) -> None:
    for iteration, info in enumerate((change, other)):
        shards, records = shard(folder / f"shards-{iteration}", range(8 * iteration, 8 * iteration + 8))
        structures = read_structures(shards[0])
        for atoms in structures:
            atoms.info |= info
        write_structures(shards[0], structures)
        previous = folder / "collect-0" if iteration else None
        collect_dataset(
            shards, records, previous, iteration=iteration, settings=Collect(), energy_window=5.0,
            max_failed_fraction=0.3, out=folder / f"collect-{iteration}",
        )  # fmt: skip


def test_another_file_of_an_element_is_a_change_of_settings(tmp_path: Path) -> None:
    first = {"label_files": "O:0123456789ab Si:aaaaaaaaaaaa"}
    collect_changed(tmp_path / "same", first, {"label_files": "C:ba9876543210 Si:aaaaaaaaaaaa"})
    collect_changed(tmp_path / "unknown", first, {})
    with pytest.raises(DatasetError, match=r"different settings do not mix: Si.*aaaaaaaaaaaa.*8 with the file bbbb"):
        collect_changed(tmp_path / "other", first, {"label_files": "O:0123456789ab Si:bbbbbbbbbbbb"})


def test_labels_of_two_versions_of_a_program_do_not_mix(tmp_path: Path) -> None:
    first = {"label_program": "VASP 6.4.1"}
    collect_changed(tmp_path / "same", first, first)
    collect_changed(tmp_path / "unknown", first, {})
    with pytest.raises(DatasetError, match=r"do not mix: 8 of VASP 6\.4\.1, 8 of VASP 6\.5\.0"):
        collect_changed(tmp_path / "other", first, {"label_program": "VASP 6.5.0"})


def test_two_charges_of_one_composition_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"Si is there with charge -1 and 0 \(s-8, s-\d\).*structures"):
        collect_changed(tmp_path, {}, {"charge": -1})
