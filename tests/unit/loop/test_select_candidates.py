"""The batch: what teaches most, sane, with audits, and a reason for every frame."""

from typing import get_args

import numpy as np
import pytest
import xarray as xr

from mlip.active.environments import EnvironmentTable, Known
from mlip.active.tables import ScoredEnvironments
from mlip.config.loop import Select, SelectionMethod
from mlip.loop.select_candidates import Verdict, auditable, decide, screen_frames


def table(n: int = 60, seed: int = 0, **columns: np.ndarray) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    uncertainty = np.asarray(columns.get("force_uncertainty", rng.uniform(0.05, 0.5, n)), float)
    values = {
        "force_uncertainty": uncertainty,
        "expected_squared_error": uncertainty**2 / 3,
        "label_cost": np.ones(n),
        "novelty": np.full(n, 1.0),
        "min_distance_ratio": np.full(n, 0.9),
        "energy_above_lowest": np.full(n, 0.1),
        "regular": np.ones(n),
        "time_fs": np.arange(1.0, n + 1),
        "source": np.zeros(n),
        "n_atoms": np.full(n, 8),
        "cut_atom": np.full(n, -1),
        **columns,
    }
    data = {name: ("candidate", np.asarray(v, float)) for name, v in values.items()}
    ids = np.array([f"frame-{k}" for k in range(n)], dtype=object)
    return xr.Dataset({**data, "structure_id": ("candidate", ids)})


def environments(data: xr.Dataset, features: np.ndarray | None = None) -> ScoredEnvironments:
    """One atom a frame, with random ``features`` [n_frames, 5]; eight known ones near the origin."""
    n, rng = data.sizes["candidate"], np.random.default_rng(5)
    features = rng.normal(size=(n, 5)) if features is None else features
    sources = data.source.values.astype(int).tolist()
    known = Known.of(EnvironmentTable.of([*0.1 * rng.normal(size=(8, 1, 5))], [np.array([29])] * 8, [0] * 8))
    frames = known.metric.apply(EnvironmentTable.of([*features[:, None]], [np.array([29])] * n, sources))
    return ScoredEnvironments(frames, known, [f"known-{k}" for k in range(8)], {0: 1.0})


def rows(verdicts: list[Verdict], decision: str) -> list[int]:
    return [row for row, verdict in enumerate(verdicts) if verdict.decision == decision]


def run(data: xr.Dataset, seed: int = 1, features: np.ndarray | None = None, **settings: object) -> list[Verdict]:
    select = Select(**{"n_structures": 10, "n_audit": 3, **settings})
    return decide(data, environments(data, features), select, 0.6, np.random.default_rng(seed))


def test_batch_has_its_size_and_audits() -> None:
    verdicts = run(table())
    assert len(rows(verdicts, "audit")) == 3
    assert len(rows(verdicts, "uncertain")) == 7
    assert all(verdict.reason for verdict in verdicts)


def test_selection_is_reproducible_and_seeded() -> None:
    assert list(map(repr, run(table()))) == list(map(repr, run(table())))
    assert rows(run(table()), "audit") != rows(run(table(), seed=2), "audit")


def test_uncertain_frames_come_first() -> None:
    data = table()
    chosen = rows(run(data, method="clusters"), "uncertain")
    left = rows(run(data, method="clusters"), "left")
    uncertainty = data.force_uncertainty.values
    assert uncertainty[chosen].mean() > uncertainty[left].mean()


def test_duplicates_are_taken_once_and_the_batch_goes_on_while_anything_is_new() -> None:
    """The product rule ended the batch when its best had a duplicate in it, though others were new."""
    features = np.zeros((30, 5))
    features[:4] = np.eye(5)[:4] * 5
    features[4:] = 9.0
    uncertainty = np.full(30, 0.01)
    uncertainty[4:] = 0.9
    verdicts = run(table(30, force_uncertainty=uncertainty), features=features, n_structures=20, n_audit=0)
    taken = rows(verdicts, "uncertain")
    assert len(taken) == 5
    assert set(range(4)) <= set(taken)
    assert sum("duplicate" in verdict.reason for verdict in verdicts) == 25


def test_every_choice_names_its_atom_and_the_nearest_known_structure() -> None:
    for verdict in run(table(), n_audit=0):
        assert verdict.atom == 0
        assert verdict.decision != "uncertain" or verdict.nearest.startswith("known-") or "of this" in verdict.reason


@pytest.mark.parametrize("method", get_args(SelectionMethod))
def test_each_method_fills_the_batch(method: str) -> None:
    verdicts = run(table(), method=method)
    assert (len(rows(verdicts, "audit")), len(rows(verdicts, "uncertain"))) == (3, 7)


def test_broken_frames_are_never_taken_not_even_for_audit() -> None:
    ratio = np.full(20, 0.3)
    ratio[:5] = 0.9
    verdicts = run(table(20, min_distance_ratio=ratio))
    assert set(rows(verdicts, "audit") + rows(verdicts, "uncertain")) <= set(range(5))
    assert sum("too close" in verdict.reason for verdict in verdicts) == 15


def test_windows_on_energy_and_uncertainty() -> None:
    uncertainty = np.array([0.001, 0.2, 99.0, 0.2])
    energy = np.array([0.1, 0.1, 0.1, 50.0])
    data = table(4, force_uncertainty=uncertainty, energy_above_lowest=energy)
    verdicts = run(data, n_structures=4, n_audit=0, min_uncertainty=0.02, max_uncertainty=1.5)
    assert rows(verdicts, "uncertain") == [1]
    reasons = [verdict.reason for verdict in verdicts]
    assert "certain enough" in reasons[0]
    assert "max_uncertainty" in reasons[2]
    assert "above the lowest" in reasons[3]


def test_uncertain_frames_are_worth_a_label_however_uncertain() -> None:
    """Frames above a fixed number were never labelled: a loop whose walkers all stopped there ended."""
    verdicts = run(table(20, force_uncertainty=np.full(20, 50.0)))
    assert len(rows(verdicts, "uncertain")) == 7


def test_audits_ignore_limits() -> None:
    verdicts = run(table(50, force_uncertainty=np.full(50, 1e-4)), min_uncertainty=0.02)
    assert len(rows(verdicts, "audit")) == 3
    assert rows(verdicts, "uncertain") == []


def test_audits_are_regular_samples_after_the_start() -> None:
    regular, time = np.ones(40), np.arange(40.0)
    regular[20:] = 0
    time[:15] = 0
    drawn = set()
    for seed in range(20):
        verdicts = run(table(40, regular=regular, time_fs=time), seed=seed)
        drawn |= set(rows(verdicts, "audit"))
        assert len(rows(verdicts, "audit")) == 3
    assert drawn == {15, 16, 17, 18, 19}


def test_extra_frames_before_a_stop_may_be_chosen_as_uncertain() -> None:
    uncertainty = np.full(30, 0.05)
    uncertainty[:7] = 0.9
    verdicts = run(table(30, regular=np.zeros(30), force_uncertainty=uncertainty), method="clusters")
    assert rows(verdicts, "audit") == []
    assert set(range(7)) <= set(rows(verdicts, "uncertain"))


def test_no_frames_no_batch() -> None:
    assert run(table(0)) == []


def test_audits_are_drawn_from_each_starting_structure_in_turn() -> None:
    source = np.repeat([0, 1, 2], [50, 6, 4])
    data = table(60, source=source)
    for seed in range(5):
        assert sorted(source[rows(run(data, seed=seed), "audit")]) == [0, 1, 2]
        five = source[rows(run(data, seed=seed, n_audit=5), "audit")].tolist()
        assert sorted(five.count(number) for number in range(3)) == [1, 2, 2]


def test_audits_carry_the_chance_they_had_and_uncertain_frames_a_larger_one() -> None:
    uncertainty = np.full(40, 0.1)
    uncertainty[:4] = 1.0
    found: dict[int, float] = {}
    for seed in range(200):
        for row, verdict in enumerate(run(table(40, force_uncertainty=uncertainty), seed=seed, n_audit=2)):
            if verdict.decision == "audit":
                assert verdict.probability is not None
                found[row] = verdict.probability
    assert min(found[row] for row in range(4) if row in found) > 3 * max(found[row] for row in found if row >= 4)
    chances = [found.get(row, 0.0) for row in range(40)]
    assert sum(chances) == pytest.approx(2, abs=0.2)


def test_frames_too_large_for_a_label_are_left_and_cut_ones_say_so() -> None:
    cut = np.array([-1, -1, 17])
    sizes = {"n_atoms": np.array([8, 64, 8]), "n_atoms_explored": np.array([8, 64, 64]), "cut_atom": cut}
    verdicts = run(table(3, **sizes), n_audit=0, max_atoms=16)
    assert [verdict.decision for verdict in verdicts] == ["uncertain", "left", "uncertain"]
    assert verdicts[1].reason == "too large: 64 atoms that cannot be cut to select.max_atoms 16"
    assert verdicts[2].reason.endswith("; 8 of 64 atoms, cut around atom 17")
    assert "cut" not in verdicts[0].reason


def test_frames_in_a_hole_of_the_potential_get_no_label() -> None:
    verdicts = run(table(4, energy_above_lowest=np.array([0.1, -0.5, -7.0, 0.2])), n_structures=4, n_audit=0)
    assert rows(verdicts, "uncertain") == [0, 1, 3]
    assert "7.00 eV/atom below the lowest" in verdicts[2].reason


def test_frames_of_biased_walkers_teach_and_are_never_audits() -> None:
    """An audit is to tell of the dynamics that a user runs: the certificate's population is that of plain walkers."""
    biased = np.arange(60) >= 20
    data = table(60, biased=biased)
    for seed in range(10):
        verdicts = run(data, seed=seed, n_audit=5)
        assert set(rows(verdicts, "audit")) <= set(range(20))
        assert any(biased[row] for row in rows(verdicts, "uncertain"))
    fit = auditable(data, screen_frames(data, Select(), 0.6))
    np.testing.assert_array_equal(fit, ~biased)
    assert auditable(table(60), screen_frames(table(60), Select(), 0.6)).all()
