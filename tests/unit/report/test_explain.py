"""Explanations agree with what selection did, and with what it would have done."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from mlip.active.environments import EnvironmentTable, Known
from mlip.active.tables import ScoredEnvironments
from mlip.config.label import Guards
from mlip.config.loop import Select
from mlip.io.files import read_table, write_json
from mlip.io.netcdf import write_netcdf
from mlip.loop.select_candidates import decide, write_decisions
from mlip.report.explain import FrameError, explain_frame
from mlip.report.selection_page import render_selection
from mlip.seeds import derive_rng

N = 40
COPPER = [np.array([29])]


def scores(rng: np.random.Generator) -> xr.Dataset:
    uncertainty = rng.uniform(0.05, 0.5, N)
    columns = {
        "force_uncertainty": uncertainty,
        "expected_squared_error": uncertainty**2 / 3,
        "time_fs": np.arange(1.0, N + 1),
        "frame": np.arange(N),
        "cut_atom": np.full(N, -1),
        **{name: np.ones(N) for name in ("label_cost", "novelty", "regular", "n_atoms", "min_distance_ratio")},
        **{name: np.full(N, 300.0) for name in ("temperature", "target_temperature", "target_pressure")},
        **{name: np.zeros(N) for name in ("source", "walker", "energy_above_lowest", "energy_per_atom")},
    }
    table = xr.Dataset({name: ("candidate", np.asarray(values, float)) for name, values in columns.items()})
    for name in ("ensemble", "start"):
        table[name] = ("candidate", np.full(N, "nvt", dtype=object))
    names = np.array([f"iter_00-walker_00-frame_{k:04d}" for k in range(N)], dtype=object)
    return table.assign(structure_id=("candidate", names))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of forty frames with one atom each and what was chosen of them."""
    folder, rng = tmp_path_factory.mktemp("results"), np.random.default_rng(3)
    iteration, table = folder / "iter_00", scores(rng)
    known = Known.of(EnvironmentTable.of([*0.1 * rng.normal(size=(8, 1, 5))], COPPER * 8, [0] * 8))
    frames = known.metric.apply(EnvironmentTable.of([*rng.normal(size=(N, 1, 5))], COPPER * N, [0] * N))
    environments = ScoredEnvironments(frames, known, [f"known-{k}" for k in range(8)], {0: 1.0})
    write_netcdf(iteration / "score_frames" / "frames.nc", table)
    write_netcdf(iteration / "score_frames" / "environments.nc", environments.as_dataset())
    select, guards = Select(n_structures=8, n_audit=2), Guards()
    config = {"select": select.model_dump(), "label": {"guards": guards.model_dump()}, "seed": 5}
    write_json(iteration / "provenance.json", {"config": config}, checked=True)
    verdicts = decide(table, environments, select, guards.min_distance_factor, derive_rng(5, "select_candidates", 0))
    write_decisions(iteration / "select_candidates" / "decisions.csv", table, verdicts)
    return folder


def frames_by_decision(results: Path, decision: str) -> list[str]:
    table = read_table(results / "iter_00" / "select_candidates" / "decisions.csv")
    return table.loc[table["decision"] == decision, "structure_id"].tolist()


def test_a_left_frame_is_taken_from_the_budget_that_is_told(results: Path) -> None:
    for frame in frames_by_decision(results, "left")[:3]:
        told = next(line for line in explain_frame(results, frame) if "from a budget of" in line)
        budget = int(told.split("budget of ")[1].split()[0])
        assert budget > 8
        assert f"  with a budget of {budget} (was 8): taken" in explain_frame(results, frame, budget=budget)
        assert f"  with a budget of {budget - 1} (was 8): left" in explain_frame(results, frame, budget=budget - 1)


def test_chosen_frames_and_audits_say_why(results: Path) -> None:
    chosen, audit = (frames_by_decision(results, decision)[0] for decision in ("uncertain", "audit"))
    assert "nats" in explain_frame(results, chosen)[1]
    assert "chance" in explain_frame(results, audit)[1]


@pytest.mark.parametrize(("frame", "said"), [("frame 3", "is no frame"), ("iter_00-walker_00-frame_0999", "40 scored")])
def test_frames_that_there_are_not_are_named(results: Path, frame: str, said: str) -> None:
    with pytest.raises(FrameError, match=said):
        explain_frame(results, frame)


def test_page_of_selections_shows_what_was_taken_and_what_others_had_taken(results: Path) -> None:
    decisions = read_table(results / "iter_00" / "select_candidates" / "decisions.csv")
    record = SimpleNamespace(number=0, decisions=decisions)
    page = render_selection(results, SimpleNamespace(iterations=[record], last=record))
    for frame in (*frames_by_decision(results, "uncertain"), *frames_by_decision(results, "audit")):
        assert frame in page
    rows = dict(re.findall(r"<tr><td>([^<]+ labels)</td><td class=.num.>\d+</td><td class=.num.>(\d+)</td>", page))
    # Eight labels are two audits and six to teach; a larger batch of the same rule holds the smaller one.
    assert rows["log-determinant, 8 labels"] == rows["log-determinant, 16 labels"] == "6"
    assert rows["log-determinant, 4 labels"] == "2"
    assert {f"{name}, 8 labels" for name in ("random", "farthest", "clusters", "trust-levels")} <= set(rows)


def test_page_of_selections_does_without_scores(results: Path, tmp_path: Path) -> None:
    decisions = read_table(results / "iter_00" / "select_candidates" / "decisions.csv")
    record = SimpleNamespace(number=0, decisions=decisions)
    page = render_selection(tmp_path, SimpleNamespace(iterations=[record], last=record))
    assert "no other rule was tried" in page
    assert frames_by_decision(results, "uncertain")[0] in page
