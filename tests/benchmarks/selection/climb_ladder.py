"""From a crystal's configuration alone to a certified melt: seeds of a loop whose teacher stands in for DFT.

    python tests/benchmarks/selection/climb_ladder.py results/climb --case silicon --seeds 0 1 2 3 4
    python tests/benchmarks/selection/climb_ladder.py results/climb --table

EMT copper and Stillinger-Weber silicon cost nothing and are exact, so what is tried is the plumbing: that walkers
climb from the crystal to the melt, that no label is paid for a broken frame, and that audits certify what the
walkers of the last rung met. No threshold is set anywhere: of `explore` how long walkers run and in what steps, of
`select` how many labels there are, of `train` the size of the potential.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from small_loop import SmallLoop

from mlip.config.system import Config, parse_config
from mlip.io.extxyz import read_structures
from mlip.io.files import write_json
from mlip.structures.geometry import min_distance_ratio

CASES: dict[str, dict[str, Any]] = {
    "silicon": {
        "structures": [
            {"bulk": {"name": "Si", "crystalstructure": "diamond", "a": 5.43, "cubic": True}, "repeat": [2, 2, 1]}
        ],
        "label": {"calculator": "mlip.calculators.stillinger_weber.StillingerWeber"},
    },
    "copper": {
        "structures": [{"bulk": {"name": "Cu", "crystalstructure": "fcc", "a": 3.61}, "repeat": [2, 2, 2]}],
        "label": {"calculator": "ase.calculators.emt.EMT"},
    },
}
SMALL = {"n_channels": 8, "hidden": [16], "committee_size": 3, "n_steps": 600, "early_stopping": False}
"""A potential that trains in seconds; everything else of it is as ever."""
BROKEN = 0.6
"""Of the covalent radii: a label of nearer atoms would be one of a broken frame."""


def configure(case: str, seed: int, *, n_iterations: int, explore: dict[str, Any]) -> Config:
    """The configuration of one seed: the crystal, its teacher, a small potential, and how long it may take."""
    values = {
        "system": f"{case}-{seed}",
        "seed": seed,
        "max_iterations": n_iterations,
        "train": SMALL,
        "explore": {"timestep": 2.0, "n_steps": 300, **explore},
        "select": {"n_structures": 12, "n_audit": 6},
    }
    return parse_config({**CASES[case], **values})


def climb(case: str, seed: int, root: Path, **options: Any) -> dict[str, Any]:
    """One loop, and what came of it."""
    began = time.process_time()
    config = configure(case, seed, **options)
    loop = SmallLoop(config, root)
    assessments = loop.run()
    last = assessments[-1]
    labels = [
        a for k in range(len(assessments)) for a in read_structures(loop.path(k, "collect_dataset", "new.extxyz"))
    ]
    return {
        "case": case,
        "seed": seed,
        "iterations": len(assessments),
        "labels": last["labels_total"],
        "failed": last["failed_total"],
        "broken": sum(min_distance_ratio(a) < BROKEN for a in labels if a.info["origin"] == "walker"),
        "converged": last["converged"],
        "reason": last["reason"],
        "certificate": ((last["audit"] or {}).get("certificates") or {}).get("0"),
        "ladder": [a["ladder"]["0"] for a in assessments],
        "unmet": [c["name"] for c in last["criteria"] if not c["passed"]],
        "seconds": time.process_time() - began,
    }


def is_certified(record: dict[str, Any]) -> bool:
    """Whether walkers have molten at the top of their ladder, and audits bound the error there as they should.

    The loop may go on all the same, for what is no matter of the melt: the crystal's bulk modulus.
    """
    last, unmet = record["ladder"][-1], " ".join(record["unmet"])
    return bool(last["done"] and last["seen"]["n_molten"] and "audit" not in unmet and "RMSE over" not in unmet)


def tabulate(records: Sequence[dict[str, Any]]) -> str:
    """A row per loop."""
    lines = [
        "| case | seed | certified melt | converged | labels | iterations | bound, eV/Å | K | not met | CPU s |",
        "|" + "---|" * 10,
    ]
    for r in records:
        last, certificate = r["ladder"][-1], r["certificate"] or {}
        bound = certificate.get("upper")
        cells = [
            r["case"],
            r["seed"],
            "yes" if is_certified(r) else "no",
            "yes" if r["converged"] else "no",
            r["labels"],
            r["iterations"],
            f"{bound:.2g}" if bound else certificate.get("refused", "none"),
            f"{last['walked']['temperature']:.0f}",
            ", ".join(r["unmet"]),
            f"{r['seconds']:.0f}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the seeds that have no record yet, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where records are and go")
    parser.add_argument("--case", default="silicon", choices=[*CASES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(5)])
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--table", action="store_true", help="print what has been measured, run nothing")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for seed in () if given.table else given.seeds:
        record = given.folder / f"{given.case}-{seed}.json"
        if not record.exists():
            root = given.folder / "runs" / f"{given.case}-{seed}"
            found = climb(given.case, seed, root, n_iterations=given.iterations, explore={})
            write_json(record, found)
            print(tabulate([found]), flush=True)
    print(tabulate([json.loads(path.read_text()) for path in sorted(given.folder.glob("*.json"))]))


if __name__ == "__main__":
    main()
