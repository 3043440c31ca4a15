"""Batches of frames from made-up environments, where it is known what is new."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mlip.active.acquisition import METHODS, choose, choose_clusters, choose_log_determinant, choose_trusted
from mlip.active.environments import EnvironmentTable, Known
from mlip.active.methods import LogDeterminant
from mlip.active.pool import DUPLICATE, Pool, Tracker, share_quotas
from mlip.active.tables import ScoredEnvironments

SILICON, GOLD = 14, 79
WIDTH = 12


def blocks_of(rng: np.random.Generator, n_frames: int, n_atoms: int, spread: float = 1.0) -> list[np.ndarray]:
    return [rng.normal(0, spread, (n_atoms, WIDTH)).astype(np.float32) for _ in range(n_frames)]


def table_of(blocks: list[np.ndarray], systems: list[int] | int = 0, species: int = SILICON) -> EnvironmentTable:
    systems = [systems] * len(blocks) if isinstance(systems, int) else systems
    return EnvironmentTable.of(blocks, [np.full(len(b), species) for b in blocks], systems)


def pool_of(blocks: list[np.ndarray], known: Known, systems: list[int] | int = 0, **more: Any) -> Pool:
    n = len(blocks)
    rest = {
        "squared_error": np.full(n, 0.01),
        "largest": np.full(n, 0.1),
        "cost": np.ones(n),
        "usable": np.ones(n, bool),
        "means": np.array([np.r_[b.mean(0), b.std(0)] for b in blocks]),
        "known_means": np.zeros((1, 2 * WIDTH)),
    }
    return Pool(known.reduce(table_of(blocks, systems)), known, **(rest | more))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def known(rng: np.random.Generator) -> Known:
    return Known.of(table_of(blocks_of(rng, 10, 20)))


def with_odd_atom(block: np.ndarray, atom: int, value: float = 9.0) -> np.ndarray:
    changed = block.copy()
    changed[atom, 3] = value
    return changed


@pytest.mark.parametrize("method", ["log-determinant", "clusters", "farthest"])
def test_one_odd_atom_among_hundreds_is_found_and_named(method: str, known: Known, rng: np.random.Generator) -> None:
    blocks = blocks_of(rng, 15, 250)
    blocks[7] = with_odd_atom(blocks[7], 123)
    choice = choose(method, pool_of(blocks, known), 1, rng)
    assert choice.rows.tolist() == [7]
    assert choice.atoms[7] == 123
    assert "atom 123 is" in choice.reasons[7]
    row = int(choice.nearest[7])
    place = f"known frame {known.table.frame[row]}, atom {known.table.atom[row]}"
    assert place in choice.reasons[7]
    apart = np.linalg.norm(known.table.values[row] - known.metric.apply(table_of(blocks)).values[7 * 250 + 123])
    assert choice.distances[7] == pytest.approx(apart / known.table.unit[0], rel=1e-4)


def test_the_old_mean_does_not_see_the_odd_atom(known: Known, rng: np.random.Generator) -> None:
    blocks = blocks_of(rng, 15, 250)
    blocks[7] = with_odd_atom(blocks[7], 123)
    blocks[2] = blocks[2] + 0.1
    assert choose("farthest-mean", pool_of(blocks, known), 1, rng).rows.tolist() == [2]


@pytest.mark.parametrize("method", [*METHODS])
def test_a_batch_is_full_while_new_frames_are_left(method: str, known: Known, rng: np.random.Generator) -> None:
    """The rule of old broke off at the first frame that was none, though others were new."""
    blocks = blocks_of(rng, 6, 20)
    blocks += [block.copy() for block in blocks[:3]]  # copies
    largest = np.linspace(0.02, 2.0, 9)
    choice = choose(method, pool_of(blocks, known, largest=largest), 9, rng)
    assert len(choice.rows) == 6
    left = sorted({*range(9)} - {*choice.rows.tolist()})
    for frame in left:
        twin = frame - 6 if frame >= 6 else frame + 6
        assert choice.reasons[frame].startswith("duplicate")
        assert f"in frame {twin}, taken" in choice.reasons[frame]
    full = choose(method, pool_of(blocks, known, largest=largest), 2, rng)
    assert len(full.rows) == 2
    assert sum(reason.startswith("batch full") for reason in full.reasons) == 9 - 2 - sum(
        reason.startswith("duplicate") for reason in full.reasons
    )


@pytest.mark.parametrize("method", [*METHODS])
def test_known_and_unusable_frames_are_left(method: str, rng: np.random.Generator) -> None:
    training, held, fresh = blocks_of(rng, 8, 10), blocks_of(rng, 2, 10), blocks_of(rng, 3, 10)
    known = Known.of(table_of([*training, *held]), np.arange(10) < 8)
    usable = np.array([True] * 4 + [False])
    choice = choose(method, pool_of([training[2], held[1], *fresh], known, usable=usable), 5, rng)
    assert sorted(choice.rows.tolist()) == [2, 3]
    assert [choice.reasons[k].split(":")[0] for k in (0, 1, 4)] == ["like known data", "like known data", "not usable"]


def test_what_does_not_teach_is_no_information(rng: np.random.Generator) -> None:
    training, audit = blocks_of(rng, 8, 10, 0.3), blocks_of(rng, 1, 10, 3.0)
    near = [audit[0] + rng.normal(0, 0.2, audit[0].shape).astype(np.float32)]
    known = Known.of(table_of([*training, *audit]), np.arange(9) < 8)
    wiser = Known.of(table_of([*training, *audit]))
    ignorant, informed = (choose("farthest", pool_of(near, k), 1, rng) for k in (known, wiser))
    assert ignorant.distances[0] > 3 * informed.distances[0]


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_lazy_gains_are_those_of_a_full_search(power: float, known: Known, rng: np.random.Generator) -> None:
    blocks = [block * scale for block, scale in zip(blocks_of(rng, 25, 20), rng.uniform(0.5, 2, 25), strict=True)]
    pool = pool_of(blocks, known, squared_error=rng.uniform(0.5, 2, 25))
    white, table = known.whiten(pool.environments), pool.environments
    chosen: list[int] = []
    for _ in range(6):
        rows = [np.isin(table.frame, [*chosen, k]) for k in range(25)]
        base = np.isin(table.frame, chosen)
        dets = [np.linalg.slogdet(np.eye(WIDTH) + white[r].T @ white[r])[1] for r in [*rows, base]]
        gains = 0.5 * (np.array(dets[:-1]) - dets[-1]) * pool.weights() ** power
        gains[chosen] = -1
        chosen.append(int(np.argmax(gains)))
    choice = choose_log_determinant(pool, 6, rng, power=power)
    assert choice.rows.tolist() == chosen
    # The scores of those left are exact as well, given the batch.
    rule = LogDeterminant(pool, power=power)
    for frame in chosen:
        rule.add(frame)
    left = sorted({*range(25)} - {*chosen})
    np.testing.assert_allclose(choice.scores[left], rule.final_scores(np.ones(25, bool))[left], rtol=1e-9)


def test_clusters_follow_lcmd(rng: np.random.Generator) -> None:
    """Holzmüller et al., arXiv:2203.09410, algorithm 5, written out for frames of one atom."""
    known = Known.of(table_of(blocks_of(rng, 10, 1)))
    blocks = blocks_of(rng, 40, 1)
    pool = pool_of(blocks, known)
    points, centres = pool.environments.values.astype(float), [*known.table.values.astype(float)]
    expected: list[int] = []
    for _ in range(8):
        apart = np.array([[np.sum((p - c) ** 2) for c in centres] for p in points])
        owner, squared = apart.argmin(1), apart.min(1)
        largest = int(np.argmax(np.bincount(owner, weights=squared, minlength=len(centres))))
        expected.append(int(np.argmax(np.where(owner == largest, squared, -1))))
        centres.append(points[expected[-1]])
    assert choose_clusters(pool, 8, rng).rows.tolist() == expected


@pytest.mark.parametrize("method", ["log-determinant", "clusters", "farthest"])
def test_costly_frames_must_be_worth_it(method: str, known: Known, rng: np.random.Generator) -> None:
    blocks = blocks_of(rng, 20, 32)
    cost = np.where(np.arange(20) < 10, 1.0, 50.0)
    assert (choose(method, pool_of(blocks, known, cost=cost), 8, rng).rows < 10).all()


@pytest.mark.parametrize("method", ["log-determinant", "clusters", "farthest"])
def test_large_cells_do_not_win_by_size(method: str, known: Known, rng: np.random.Generator) -> None:
    """At equal cost 256 atoms of the same kind are worth somewhat more than 32, for they hold more odd ones."""
    pool = pool_of([*blocks_of(rng, 40, 32), *blocks_of(rng, 40, 256)], known)
    choice = choose(method, pool, 1, rng)
    # What clusters rank by is a cluster's, not a frame's.
    worth = choice.distances if method == "clusters" else choice.scores
    assert 0.8 < np.nanmedian(worth[40:]) / np.nanmedian(worth[:40]) < 2.0
    dear = replace(pool, cost=np.r_[np.ones(40), np.full(40, 8.0)])
    assert (choose(method, dear, 20, rng).rows < 40).all()


@pytest.mark.parametrize("method", ["log-determinant", "clusters", "farthest"])
def test_systems_that_vary_little_are_measured_by_themselves(method: str, rng: np.random.Generator) -> None:
    """A crystal's news are small beside a melt's vibrations; in units of each they weigh the same."""
    crystal, melt = blocks_of(rng, 10, 20, 0.01), blocks_of(rng, 10, 20, 1.0)
    known = Known.of(table_of([*crystal, *melt], [0] * 10 + [1] * 10))
    usual = [*blocks_of(rng, 10, 20, 0.01), *blocks_of(rng, 10, 20, 1.0)]
    usual[4] = with_odd_atom(usual[4], 5, 0.15)
    pool = pool_of(usual, known, [0] * 10 + [1] * 10)
    assert choose(method, pool, 1, rng).rows.tolist() == [4]


def test_news_of_one_system_do_not_depend_on_the_others(rng: np.random.Generator) -> None:
    """Copper expanded by 3 % was 26.7, .29 or .04 training deviations away, with 1, 3 or 5 systems in the set."""
    copper, others = blocks_of(rng, 10, 20, 0.05), [5.0 * k + b for k in range(1, 5) for b in blocks_of(rng, 5, 20)]
    expanded = [copper[0] + 0.2]
    alone = Known.of(table_of(copper))
    among = Known.of(table_of([*copper, *others], [0] * 10 + [k for k in range(1, 5) for _ in range(5)]))
    distances = [choose("farthest", pool_of(expanded, known), 1, rng).distances[0] for known in (alone, among)]
    assert distances[1] == pytest.approx(distances[0], rel=1e-3)


def test_quotas_hold_while_others_have_news(known: Known, rng: np.random.Generator) -> None:
    blocks = [block * (3.0 if k < 8 else 1.0) for k, block in enumerate(blocks_of(rng, 16, 20))]
    pool = pool_of(blocks, known, [0] * 8 + [1] * 8, quotas={0: 3, 1: 5})
    choice = choose("clusters", pool, 8, rng)
    assert (choice.rows < 8).sum() == 3
    assert any("quota of 3" in choice.reasons[frame] for frame in range(8))
    short = pool_of(blocks[:9], known, [0] * 8 + [1], quotas={0: 3, 1: 5})
    lifted = choose("clusters", short, 8, rng)
    assert len(lifted.rows) == 8
    assert "beyond its system's quota" in lifted.reasons[lifted.rows[-1]]


def test_quotas_are_shared_by_error_and_evenly(known: Known, rng: np.random.Generator) -> None:
    squared = np.array([0.09] * 4 + [0.01] * 4)
    pool = pool_of(
        blocks_of(rng, 8, 5), known, [0] * 4 + [1] * 4, squared_error=squared, squared_force={0: 1.0, 1: 1.0}
    )
    assert share_quotas(pool, 10) == {0: 7, 1: 3}
    assert share_quotas(replace(pool, usable=np.zeros(8, bool)), 10) == {}


def test_trust_levels_take_candidates_first(known: Known, rng: np.random.Generator) -> None:
    largest = np.array([0.01, 0.04, 0.06, 0.2, 0.24, 0.3, 5.0])
    pool = pool_of(blocks_of(rng, 7, 20), known, largest=largest)
    choice = choose_trusted(pool, 6, rng)
    assert {*choice.rows[:3].tolist()} == {2, 3, 4}
    assert choice.rows[3:].tolist() == [1, 0, 5]
    assert "failed by the upper level" in choice.reasons[5]


def test_random_choice_depends_on_the_generator_alone(known: Known, rng: np.random.Generator) -> None:
    pool = pool_of(blocks_of(rng, 30, 5), known)
    draws = [choose("random", pool, 5, np.random.default_rng(seed)).rows.tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_reduction_keeps_what_says_most(known: Known, rng: np.random.Generator) -> None:
    block = with_odd_atom(with_odd_atom(blocks_of(rng, 1, 300)[0], 17), 200, -9.0)
    kept = known.reduce(table_of([block]), 8)
    assert len(kept.atom) == 8
    assert {17, 200} <= {*kept.atom.tolist()}
    assert len(known.reduce(table_of([block[:5]]), 8).atom) == 5


def test_distances_survive_the_projection(rng: np.random.Generator) -> None:
    wide = [rng.normal(size=(20, 500)).astype(np.float32) for _ in range(6)]
    known = Known.of(table_of(wide), seed=3)
    assert known.table.values.shape[1] < 500
    before, after = (np.linalg.norm(v[:60] - v[60:], axis=1) for v in (np.concatenate(wide), known.table.values))
    assert np.abs(after / before - 1).max() < 0.35
    assert np.abs(after / before - 1).mean() < 0.1


def test_of_very_many_known_environments_the_telling_ones_stay(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = blocks_of(rng, 12, 100)
    blocks[3] = with_odd_atom(blocks[3], 42)
    monkeypatch.setattr("mlip.active.environments.MOST_KNOWN", 300)
    known = Known.of(table_of(blocks))
    assert len(known.table.frame) == 300
    assert {*known.table.frame.tolist()} == {*range(12)}
    again = choose("farthest", pool_of([blocks[3], *blocks_of(rng, 1, 100)], known), 2, rng)
    assert again.rows.tolist() == [1]
    assert again.reasons[0].startswith("like known data")


def test_distances_to_the_batch_are_kept(known: Known, rng: np.random.Generator) -> None:
    pool = pool_of(blocks_of(rng, 5, 20), known)
    tracker = Tracker(pool)
    tracker.add(2)
    rows = pool.environments.frame == 2
    assert (tracker.taught[rows] < DUPLICATE**2).all()
    assert tracker.is_new().tolist() == [True, True, False, True, True]


def test_a_table_of_scored_frames_is_chosen_from_as_before(rng: np.random.Generator) -> None:
    training = [rng.normal(size=(10, 200)).astype(np.float32) for _ in range(6)]
    frames = [rng.normal(size=(30, 200)).astype(np.float32) for _ in range(8)]
    known = Known.of(table_of(training, [0, 0, 0, 1, 1, 1]), np.arange(6) != 2)
    reduced = known.reduce(table_of(frames, [0] * 4 + [1] * 4))
    error, cost = rng.uniform(0.1, 0.2, 8), rng.uniform(1, 2, 8)
    written = ScoredEnvironments(reduced, known, [str(k) for k in range(6)], {0: 1.0, 1: 2.0}).as_dataset()
    read = ScoredEnvironments.from_dataset(xr.Dataset.from_dict(written.to_dict()))
    rest = (error**2, 2 * error, cost, np.ones(8, bool))
    pool = Pool(read.frames, read.known, *rest, squared_force=read.squared_force)
    direct = Pool(reduced, known, *rest, squared_force={0: 1.0, 1: 2.0})
    for method in ("log-determinant", "clusters", "farthest"):
        first, second = (choose(method, replace(p, quotas=share_quotas(p, 5)), 5, rng) for p in (pool, direct))
        assert first.rows.tolist() == second.rows.tolist()
        assert first.reasons == second.reasons


def test_wrong_pools_are_refused(known: Known, rng: np.random.Generator) -> None:
    blocks = blocks_of(rng, 3, 5)
    with pytest.raises(ValueError, match="cost more than nothing"):
        pool_of(blocks, known, cost=np.array([1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="other lengths"):
        pool_of(blocks, known, cost=np.ones(4))
    with pytest.raises(ValueError, match="no rule of selection is called 'best'"):
        choose("best", pool_of(blocks, known), 1, rng)
    with pytest.raises(ValueError, match="need"):
        choose("product", pool_of(blocks, known, means=None), 1, rng)
    with pytest.raises(ValueError, match="teaches"):
        Known.of(table_of(blocks), np.zeros(3, bool))
    with pytest.raises(ValueError, match="not finite"):
        pool_of([*blocks[:2], np.full((5, WIDTH), np.nan, np.float32)], known)
