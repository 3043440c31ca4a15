"""Frames of a large cell are scored by the core around their least known atom, and carved there when chosen."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from mlip.config.label import Guards
from mlip.config.loop import Carve, Select
from mlip.config.walkers import WalkerPlan
from mlip.io.extxyz import read_structures, write_structures
from mlip.io.files import read_table, write_json
from mlip.io.netcdf import read_netcdf
from mlip.loop.score_frames import ScoreRequest, score_frames
from mlip.loop.select_candidates import select_candidates
from tests.unit.loop.test_walker_kinds import COPPER, FakePotential, explore, label

CARVING = Carve(core=2.6, max_share=0.6)


class ShortPotential(FakePotential):
    """Sees 1.5 Å far, so that small cells are large enough."""

    cutoff = 1.5


@pytest.fixture
def frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Atoms]:
    """Of a walker of 256 atoms, in ``tmp_path``; also a dataset."""
    monkeypatch.setattr("mlip.loop.score_frames.load_potential", lambda *a, **k: ShortPotential())
    base = {"ensemble": "nvt", "temperature": 300.0, "volume": 0.0, "pressure": 0.0}
    plan = WalkerPlan(source=COPPER, repeat=(4, 4, 4), **base)
    structures, _ = explore(tmp_path, monkeypatch, plan, iteration=0, out=tmp_path / "walker_00.nc")
    training = [label(bulk("Cu", cubic=True).repeat(2), 0) for _ in range(2)]
    for k, atoms in enumerate(training):
        atoms.rattle(0.05, seed=k)
        training[k] = label(atoms, 0)
    for name, kept in (("train", training), ("valid", []), ("test", [])):
        write_structures(tmp_path / f"{name}.extxyz", kept)
    write_json(tmp_path / "training.json", {}, checked=True)
    return structures


def score(folder: Path, **options: object):
    options = {"carving": CARVING, "max_atoms": 256} | options
    score_frames(ScoreRequest([folder / "walker_00.nc"], folder, folder, [], folder, seed=1, **options))
    return read_netcdf(folder / "frames.nc"), read_netcdf(folder / "environments.nc")


def test_frames_are_scored_and_carved_around_their_least_known_atom(tmp_path: Path, frames: list[Atoms]) -> None:
    table, environments = score(tmp_path)
    assert (table.carve_radius.values == 4.1).all()
    share = table.n_atoms.values[0] / 256
    assert share < 0.6
    whole, _ = score(tmp_path, carving=None)
    assert (whole.carve_radius.values == 0).all()
    assert table.label_cost.values == pytest.approx(whole.label_cost.values * share**2, rel=0.02)
    assert np.allclose(table.expected_squared_error.values, whole.expected_squared_error.values)
    assert np.allclose(table.novelty.values, whole.novelty.values), "the least known atom is in the core"
    for k, frame in enumerate(frames):
        rows = np.flatnonzero(environments.frame.values == k)
        near = frame.get_distances(int(table.cut_atom.values[k]), range(256), mic=True) <= 2.6
        assert 0 < len(rows) <= near.sum()
        assert near[environments.atom.values[rows].astype(int)].all() or len(rows) == near.sum()


def select(folder: Path, out: Path) -> None:
    select_candidates(
        folder,
        [folder / "walker_00.nc"],
        settings=Select(n_structures=3, n_audit=1, max_atoms=256, carve=CARVING, max_energy=50),
        guards=Guards(),
        seed=1,
        iteration=0,
        out=out,
        decisions=folder / "decisions.csv",
    )


def test_what_teaches_is_carved_and_audits_are_whole(tmp_path: Path, frames: list[Atoms]) -> None:
    table, _ = score(tmp_path)
    out = tmp_path / "candidates.extxyz"
    select(tmp_path, out)
    chosen = {a.info["reason"]: a for a in read_structures(out)}
    assert len(chosen["audit"]) == 256
    carved = chosen["uncertain"]
    assert len(carved) == pytest.approx(table.n_atoms.values[0], rel=0.1)
    atom = int(table.cut_atom.values[carved.info["frame"]])
    frame = frames[carved.info["frame"]]
    wanted = np.sort(frame.get_distances(atom, range(256), mic=True))
    middle = int(np.argmin(np.linalg.norm(carved.positions - frame.positions[atom], axis=1)))
    found = np.sort(carved.get_distances(middle, range(len(carved)), mic=True))
    assert np.allclose(found[: np.sum(wanted < 4.1)], wanted[wanted < 4.1])
    decisions = read_table(tmp_path / "decisions.csv")
    told = decisions.reason.str.contains(r"; about 1\d\d of 256 atoms, carved around atom \d+")
    assert told.tolist() == (decisions.decision != "audit").tolist()
