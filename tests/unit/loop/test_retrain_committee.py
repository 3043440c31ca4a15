"""The last training, on all labels: its steps, its calibration, and what it says of itself."""

from pathlib import Path

from ase import Atoms

from mlip.config.train import Train
from mlip.io.extxyz import write_structures
from mlip.io.files import read_json, write_json
from mlip.loop.retrain_committee import RetrainRequest, repeat_settings, retrain_committee
from mlip.potential import load_potential


def test_steps_are_those_of_the_training_before() -> None:
    settings = Train(n_steps=1000, restart_fraction=0.25).model_dump(mode="json")
    scratch = repeat_settings({"settings": settings, "steps": 400, "previous": None})
    assert (scratch.n_steps, scratch.early_stopping) == (400, False)
    # It ran the end of its schedule alone, and so will this one.
    assert repeat_settings({"settings": settings, "steps": 100, "previous": "ab12"}).n_steps == 400


def test_what_was_held_out_is_learnt_and_said(potential_folder: Path, alloys: list[Atoms], tmp_path: Path) -> None:
    held_out = [atoms.copy() for atoms in alloys[18:]]
    for atoms, known in zip(held_out, alloys[18:], strict=True):
        atoms.calc = known.calc
        atoms.info["reason"] = "audit"
    write_structures(tmp_path / "train.extxyz", alloys[:18])
    write_structures(tmp_path / "test.extxyz", held_out)
    write_json(tmp_path / "isolated.json", {"Au": -0.25, "Cu": 0.5})
    dataset, out = [tmp_path / "train.extxyz", tmp_path / "test.extxyz"], tmp_path / "out"
    isolated = tmp_path / "isolated.json"
    retrain_committee(RetrainRequest(potential_folder, dataset, isolated, out, seed=3, iteration=4))
    before, after = (read_json(folder / "training.json") for folder in (potential_folder, out))
    assert (after["n_train"], after["n_valid"]) == (len(alloys), 0)
    assert (after["calibration"], after["uncertainty"]) == (before["calibration"], before["uncertainty"])
    told = after["retrained"]
    assert (told["iteration"], told["n_structures"], told["n_audits"]) == (4, len(alloys), len(held_out))
    assert "saw no audit" in told["note"]
    assert load_potential(out).calibration == load_potential(potential_folder).calibration

    def error(folder: Path) -> float:
        predictions = load_potential(folder).predict(held_out)
        return sum(float(((p.forces - a.get_forces()) ** 2).mean()) for p, a in zip(predictions, held_out, strict=True))

    assert error(out) < error(potential_folder)
