"""The batch: uncertain, diverse, sane, with audits, and a reason for every frame."""

import numpy as np
import xarray as xr

from mlip.config.loop import Select
from mlip.loop.select_candidates import decide


def table(n: int = 60, seed: int = 0, **columns: np.ndarray) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    descriptor = rng.normal(size=(n, 5))
    values = {
        "force_uncertainty": rng.uniform(0.05, 0.5, n),
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
    descriptor = values.get("descriptor", descriptor)
    data.pop("descriptor", None)
    return xr.Dataset(
        {**data, "structure_id": ("candidate", ids), "descriptor": (("candidate", "feature"), descriptor)}
    )


def rows(verdicts: list[tuple[str, str]], decision: str) -> list[int]:
    return [row for row, verdict in enumerate(verdicts) if verdict[0] == decision]


def run(data: xr.Dataset, seed: int = 1, **settings: float) -> list[tuple[str, str]]:
    return decide(data, Select(**{"n_structures": 10, "n_audit": 3, **settings}), 0.6, np.random.default_rng(seed))


def test_batch_has_its_size_and_audits() -> None:
    verdicts = run(table())
    assert len(rows(verdicts, "audit")) == 3
    assert len(rows(verdicts, "uncertain")) == 7
    assert all(reason for _, reason in verdicts)


def test_selection_is_reproducible_and_seeded() -> None:
    assert run(table()) == run(table())
    assert rows(run(table()), "audit") != rows(run(table(), seed=2), "audit")


def test_uncertain_frames_come_first() -> None:
    data = table()
    chosen = rows(run(data), "uncertain")
    left = rows(run(data), "left")
    uncertainty = data.force_uncertainty.values
    assert uncertainty[chosen].mean() > uncertainty[left].mean()


def test_duplicates_are_taken_once() -> None:
    descriptor = np.zeros((30, 5))
    descriptor[:4] = np.eye(5)[:4] * 5
    data = table(30)
    data["descriptor"] = (("candidate", "feature"), descriptor)
    verdicts = run(data, n_structures=20, n_audit=0)
    assert len(rows(verdicts, "uncertain")) == 5
    assert sum("duplicate of" in reason for _, reason in verdicts) == 25


def test_broken_frames_are_never_taken_not_even_for_audit() -> None:
    ratio = np.full(20, 0.3)
    ratio[:5] = 0.9
    verdicts = run(table(20, min_distance_ratio=ratio))
    assert set(rows(verdicts, "audit") + rows(verdicts, "uncertain")) <= set(range(5))
    assert sum("too close" in reason for _, reason in verdicts) == 15


def test_windows_on_energy_and_uncertainty() -> None:
    uncertainty = np.array([0.001, 0.2, 99.0, 0.2])
    energy = np.array([0.1, 0.1, 0.1, 50.0])
    data = table(4, force_uncertainty=uncertainty, energy_above_lowest=energy)
    verdicts = run(data, n_structures=4, n_audit=0)
    assert rows(verdicts, "uncertain") == [1]
    reasons = [reason for _, reason in verdicts]
    assert "certain enough" in reasons[0]
    assert "max_uncertainty" in reasons[2]
    assert "above the lowest" in reasons[3]


def test_audits_ignore_uncertainty() -> None:
    verdicts = run(table(50, force_uncertainty=np.full(50, 1e-4)))
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
    verdicts = run(table(30, regular=np.zeros(30), force_uncertainty=uncertainty))
    assert rows(verdicts, "audit") == []
    assert set(range(7)) <= set(rows(verdicts, "uncertain"))


def test_no_frames_no_batch() -> None:
    assert run(table(0, descriptor=np.zeros((0, 5)))) == []


def test_audits_are_drawn_from_each_starting_structure_in_turn() -> None:
    source = np.repeat([0, 1, 2], [50, 6, 4])
    data = table(60, source=source)
    for seed in range(5):
        assert sorted(source[rows(run(data, seed=seed), "audit")]) == [0, 1, 2]
        assert sorted(source[rows(run(data, seed=seed, n_audit=5), "audit")]) == [0, 0, 1, 1, 2]
    turns = [
        decide(data, Select(n_structures=10, n_audit=1), 0.6, np.random.default_rng(1), turn=turn) for turn in range(4)
    ]
    assert [source[rows(turn, "audit")].tolist() for turn in turns] == [[0], [1], [2], [0]]


def test_frames_too_large_for_a_label_are_left_and_cut_ones_say_so() -> None:
    cut = np.array([-1, -1, 17])
    sizes = {"n_atoms": np.array([8, 64, 8]), "n_atoms_explored": np.array([8, 64, 64]), "cut_atom": cut}
    verdicts = run(table(3, **sizes), n_audit=0, max_atoms=16)
    assert [decision for decision, _ in verdicts] == ["uncertain", "left", "uncertain"]
    assert verdicts[1][1] == "too large: 64 atoms that cannot be cut to select.max_atoms 16"
    assert verdicts[2][1].endswith("; 8 of 64 atoms, cut around atom 17")
    assert "cut" not in verdicts[0][1]
