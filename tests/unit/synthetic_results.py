"""A made-up loop on disk, in the formats of docs/design.md, for tests of what reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from mlip.config.system import Config, parse_config


def synthetic_config(**changes) -> Config:
    walkers = [{"ensemble": ensemble, "temperatures": [300, 600]} for ensemble in ("nvt", "npt")]
    base = {"system": "silicon", "max_iterations": 5, "structures": [{"bulk": {"name": "Si"}}]}
    base["explore"] = {"walkers": walkers}
    return parse_config(base | changes)


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))


def write_candidates(path: Path, ids: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"2\nstructure_id={name}\nSi 0 0 0\nSi 1.4 1.4 1.4\n" for name in ids))


def synthetic_results(root: Path, n_iterations: int = 4, *, seed: int = 0, failures: bool = True) -> list[int]:
    """Write ``n_iterations`` of a loop whose error falls by half each time; ``root`` is results/<system>."""
    rng = np.random.default_rng(seed)
    ids = [f"iter_00-rattle-{k:03d}" for k in range(16)] + [f"iter_00-volume_scan-{k:03d}" for k in range(8)]
    write_candidates(root / "iter_00" / "prepare_structures" / "candidates.extxyz", ids)
    total = failed_total = 0
    for number in range(n_iterations):
        folder = root / f"iter_{number:02d}"
        failed = _write_labels(folder, number, ids, rng, failures)
        total, failed_total = total + len(ids), failed_total + failed
        scale = 0.25 * 0.55**number
        splits = {"train": total - failed_total - 6, "valid": 3, "test": 3}
        write_json(folder / "collect_dataset" / "dataset.json", {"iteration": number, **splits, "failures": []})
        write_json(folder / "train_committee" / "training.json", {"wall_seconds": 60.0})
        counts = {"labels_total": total, "labels_new": len(ids), "failed_new": failed, "failed_total": failed_total}
        _write_assessment(folder, number, counts | {"dataset": splits}, scale, number == n_iterations - 1)
        _write_provenance(folder, number)
        ids = _write_decisions(folder, number, scale, rng)
        _touch_the_rest(root, folder)
    return list(range(n_iterations))


def _touch_the_rest(root: Path, folder: Path) -> None:
    """Outputs that the report does not read but that say that a step is done."""
    names = ["train_committee/potential.json", "score_frames/frames.nc"]
    names += [f"explore_walkers/walker_{k:02d}.nc" for k in range(synthetic_config().n_walkers)]
    paths = [folder / name for name in names]
    paths += [root / "label_references" / name for name in ("references.extxyz", "isolated_atoms.json")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _write_labels(folder: Path, number: int, ids: list[str], rng, failures: bool) -> int:
    failed = 0
    for shard in range(2):
        records = []
        for k, name in enumerate(ids[shard::2]):
            bad = failures and shard == 1 and k == 3 and number < 2
            failed += bad
            status = ("unconverged" if number else "rejected") if bad else "ok"
            reason = ("no SCF convergence after 3 escalations" if number else "atoms 1.1 Å apart") if bad else ""
            cost = float(rng.uniform(8, 16))
            records.append(
                {"structure_id": name, "key": f"{number}{shard}{k:060d}", "status": status, "reason": reason}
                | {"attempts": 1, "cached": False, "core_seconds": cost, "wall_seconds": cost}
            )
        stem = folder / "label_structures" / f"shard_{shard:03d}"
        write_json(
            stem.with_suffix(".json"),
            {"iteration": number, "shard": shard, "planned": len(records), "records": records},
        )
        stem.with_suffix(".extxyz").write_text("")
    return failed


def _write_assessment(folder, number, counts, scale, converged) -> None:
    tested = number > 0
    rmse = 2 * scale
    errors = {"lattice_constant": 0.012 * 0.3**number, "bulk_modulus": 0.11 * 0.45**number}
    reference = {"lattice_constant": (5.4737, "Å"), "bulk_modulus": (88.6, "GPa")}
    properties = {
        name: {
            "potential": value * (1 + errors[name]),
            "reference": value,
            "relative_error": errors[name],
            "unit": unit,
        }
        for name, (value, unit) in reference.items()
    }
    fresh = {"n_structures": 12, "n_atoms": 96, "energy_mae": 0.01 * scale, "energy_rmse": 0.015 * scale}
    fresh |= {"force_mae": 1.4 * scale, "force_rmse": rmse, "stress_rmse_gpa": 2 * scale}
    audit = {"n_structures": 3, "force_rmse": 0.8 * rmse, "interval": [0.6 * rmse, 1.3 * rmse], "confidence": 0.9}
    values = [
        ("force RMSE on new labels (eV/Å)", rmse if tested else None, 0.15),
        ("audit force RMSE, upper bound (eV/Å)", 1.3 * rmse if tested else None, 0.15),
        ("relative error of the lattice constant", errors["lattice_constant"], 0.003),
        ("relative error of the bulk modulus", errors["bulk_modulus"], 0.05),
    ]
    criteria = [{"name": n, "value": v, "target": t, "passed": v is not None and v <= t} for n, v, t in values]
    coverage = {"name": "coverage of the 95 % uncertainty", "value": 0.93 if tested else None, "target": 0.8}
    assessment = {
        "iteration": number,
        **counts,
        "fresh": fresh if tested else None,
        "audit": audit if tested else None,
        "calibration": {"coverage": 0.93, "expected": 0.95, "spearman": 0.71} if tested else None,
        "properties": properties | {"eos_rmse": 0.02 * scale},
        "exploration": {
            "n_walkers": 4,
            "n_exploded": int(number == 0),
            "n_uncertain": max(0, 2 - number),
            "mean_uncertainty": scale / 2,
            "shift": {"50": min(1.0, 4 * scale), "95": min(1.0, scale), "99": scale / 4},
        },
        "criteria": [*criteria, coverage | {"passed": tested}],
        "core_hours_labels": counts["labels_total"] * 12 / 3600,
        "converged": converged,
        "stop": converged,
        "reason": "converged" if converged else "continue",
    }
    write_json(folder / "assess_potential" / "assessment.json", assessment)
    if tested:
        _write_parity(folder, 12, scale, np.random.default_rng(number))
    _write_eos(folder, errors["bulk_modulus"], errors["lattice_constant"], scale)


def _write_parity(folder: Path, new: int, scale: float, rng) -> None:
    n = new * 8
    true = rng.normal(0, 1.2, (n, 3))
    std = scale * rng.lognormal(0, 0.5, (n, 1)) * np.ones((1, 3))
    energy = -5.4 + rng.gamma(2.0, 0.03, new)
    data = xr.Dataset(
        {
            "force_true": (("atom_sample", "space"), true, {"units": "eV/Å"}),
            "force_predicted": (("atom_sample", "space"), true + rng.normal(0, 1, (n, 3)) * std, {"units": "eV/Å"}),
            "force_std": (("atom_sample", "space"), std, {"units": "eV/Å"}),
            "audit": ("atom_sample", np.repeat(np.arange(new) % 4 == 0, 8).astype("int8")),
            "energy_true": ("structure", energy),
            "energy_predicted": ("structure", energy + rng.normal(0, 0.03 * scale, new)),
            "energy_std": ("structure", np.full(new, 0.03 * scale)),
            "structure_id": ("structure", [f"s{k}" for k in range(new)]),
        }
    )
    data.to_netcdf(folder / "assess_potential" / "parity.nc")


def _write_eos(folder: Path, bulk_error: float, lattice_error: float, scale: float) -> None:
    volume = 20.5 * (1 + np.array([-0.08, -0.05, -0.025, 0, 0.025, 0.05, 0.08]))

    def energy(v0: float, b0: float) -> np.ndarray:
        t = (v0 / volume) ** (2 / 3) - 1
        curve = 9 * v0 * b0 * 0.00624151 / 16 * (2 * t**2 + 0.2 * t**3)
        return curve - curve.min()

    data = xr.Dataset(
        {
            "energy_reference": ("volume", energy(20.5, 88.6), {"units": "eV/atom"}),
            "energy_potential": ("volume", energy(20.5 * (1 + 3 * lattice_error), 88.6 * (1 + bulk_error))),
            "energy_std": ("volume", np.full(7, 0.02 * scale)),
        },
        coords={"volume": volume},
    )
    data.to_netcdf(folder / "assess_potential" / "eos.nc")


def _write_provenance(folder: Path, number: int) -> None:
    costs = {"label_structures": 140.0, "collect_dataset": 2.0, "train_committee": 65.0, "explore_walkers": 80.0}
    costs |= {"score_frames": 6.0, "select_candidates": 2.0, "assess_potential": 4.0}
    if number == 0:
        costs |= {"prepare_structures": 2.0, "label_references": 60.0}
    steps = {name: {"wall_seconds": s, "core_seconds": s} for name, s in costs.items()}
    write_json(folder / "provenance.json", {"steps": steps})


def _write_decisions(folder: Path, number: int, scale: float, rng) -> list[str]:
    n = 150
    uncertainty = scale * rng.lognormal(0, 0.7, n)
    order = np.argsort(-uncertainty)
    decision, reason = np.full(n, "left", dtype=object), np.full(n, "less informative than those taken", dtype=object)
    reason[uncertainty < 0.02] = "certain enough: 0.012 eV/Å below min_uncertainty 0.02"
    decision[order[2:18:2]], reason[order[2:18:2]] = "uncertain", "most informative"
    decision[order[::50]], reason[order[::50]] = "audit", "drawn at random"
    reason[order[3:18:2]] = "too close to one taken"
    walkers, frames = np.arange(n) % 4, np.arange(n) // 4 * 20
    names = [f"iter_{number:02d}-walker_{w:02d}-frame_{f:04d}" for w, f in zip(walkers, frames, strict=True)]
    table = pd.DataFrame(
        {
            "structure_id": names,
            "walker": walkers,
            "frame": frames,
            "time_fs": frames * 1.0,
            "temperature": rng.normal(600, 60, n),
            "force_uncertainty": uncertainty,
            "novelty": rng.uniform(0, 0.3, n),
            "min_distance_ratio": rng.uniform(0.8, 1, n),
            "energy_per_atom": rng.normal(-5.3, 0.02, n),
            "decision": decision,
            "reason": reason,
        }
    )
    path = folder / "select_candidates" / "decisions.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    chosen = table[table.decision != "left"].structure_id.tolist()
    write_candidates(path.parent / "candidates.extxyz", chosen)
    return chosen
