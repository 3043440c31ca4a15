"""Tables and pictures from the records of all finished runs."""

from __future__ import annotations

import argparse
import shutil
from functools import partial
from pathlib import Path

import benchmark_tables as tables
import pandas as pd
from matplotlib.axes import Axes

from mlip.config.backends import BACKENDS
from mlip.jobs.digests import code_digest, modules_of_step
from mlip.report.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, YELLOW, Panel, Picture, limit_line, plain_numbers, png

HERE = Path(__file__).parent
TESTS = {
    "test_MD_300K": "300 K",
    "test_MD_600K": "600 K",
    "test_dihedral": "dihedral scan",
    "test_H_transfer": "proton transfer",
}
MOLECULE = (
    "Root-mean-square errors; energies in meV a molecule, forces in meV/Å. Scan and transfer have no forces. "
    "Of the 300 K training set, the fifth with the highest energies was held out to compare committees "
    "(`try_constants.py --hottest`, one seed): RMS force errors of 4 and of 8 members are 20.1 and 24.0 meV/Å after "
    "150 s. Eight were taken nevertheless, for the longer training, because earlier code had been better with them on "
    "100 structures of the published 600 K training set: in this the row is no blind extrapolation."
)
CODE = code_digest(*modules_of_step("train_committee", BACKENDS["ace"]))
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, INK)
AXES = {"force_mae": "force MAE, meV/Å", "energy_mae": "energy MAE, meV/atom"}


def draw_errors(axes: Axes, sources: tables.Sources, dataset: str, key: str) -> None:
    """Test error against seconds of training: a line through the ends of runs, a thin one along the longest."""
    groups = tables.group_runs(sources.runs, dataset)
    for variant, colour in zip(dict.fromkeys(g.variant for g in groups), COLOURS * 3, strict=False):
        own = [g for g in groups if g.variant == variant]
        ends = [(g.mean("cpu_seconds"), g.mean("errors", "test", key)) for g in own]
        axes.plot(*zip(*ends, strict=True), marker="o", color=colour, label=sources.label(variant))
        for run in own[-1].runs:
            way = [(p["cpu_seconds"], p["errors"]["test"][key]) for p in run["curve"]]
            if way:
                axes.plot(*zip(*way, strict=True), color=colour, linewidth=0.8, linestyle=":", marker=".", markersize=3)
    for entry in sources.published:
        if entry["dataset"] == dataset and key in entry["errors"]:
            limit_line(axes, entry["errors"][key], entry["model"].split(" ")[0])
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_numbers(axes.xaxis)
    plain_numbers(axes.yaxis)
    axes.set_xlabel("CPU-seconds of training, one thread")
    axes.set_ylabel(AXES[key])
    if key == "force_mae":
        axes.legend()


def draw_size(axes: Axes, sources: tables.Sources) -> None:
    """Cost of an MD step against the number of atoms."""
    rows = tables.speed_rows(sources, "size", "cpu")
    for variant, colour in zip(dict.fromkeys(row["variant"] for row in rows), COLOURS, strict=False):
        points = [(row["n_atoms"], row["cpu_us"]["min"]) for row in rows if row["variant"] == variant]
        axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=sources.label(variant))
    axes.set_xscale("log")
    axes.set_ylim(0, None)
    axes.set_xlabel("atoms")
    axes.set_ylabel("µs/atom/step, one thread")
    axes.legend()


def draw_pictures(sources: tables.Sources, folder: Path) -> list[str]:
    """Write the pictures for which there are records; returns their file names."""
    names = []
    for dataset in sorted({run["dataset"] for run in sources.runs if "test" in run["errors"]}):
        panels = [
            Panel(
                f"{dataset}: {AXES[key].split(',')[0]}",
                "",
                partial(draw_errors, sources=sources, dataset=dataset, key=key),
            )
            for key in AXES
        ]
        names.append(f"benchmark_{dataset}.png")
        png(Picture(names[-1][:-4], dataset, "", panels), folder / names[-1])
    if tables.speed_rows(sources, "size", "cpu"):
        names.append("benchmark_size.png")
        panel = Panel("Silicon MD through ASE", "", partial(draw_size, sources=sources))
        png(Picture("benchmark_size", "", "", [panel]), folder / names[-1])
    return names


def describe_method(sources: tables.Sources) -> str:
    """What was measured and how, in words."""
    machines = {f"{r['machine']['processor']}" for r in [*sources.runs, *sources.speed]}
    states = len({run["code"] for run in sources.runs if "code" in run})
    mixed = f" **Runs of Ouroboros come from {states} states of its code.**" if states > 1 else ""
    if any(run.get("code", CODE) not in (CODE, *sources.same_training) for run in sources.runs):
        mixed += " **Rows of Ouroboros, all or some, were made before the last change of its training.**"
    return (
        "Made by `make benchmark` (`tests/benchmarks`). Training time is process CPU time of one thread, or wall time "
        "on a GPU; reading data, neighbour lists and cached geometry are in it (and listed apart), evaluation and "
        "start-up are not. All packages train on the same structures; 6 % of the published training set is held "
        "out. Settings were chosen on held-out parts of the training sets, most with one seed. The other packages "
        "share one recipe (`train_rival.py`): force-dominated squared errors with a rising energy weight, AdamW, "
        "averaged weights, a cosine over the budget. ± is the standard deviation over seeds; a budget with one seed "
        f"has none. Measured on: {'; '.join(sorted(machines)) or 'nothing yet'}.{mixed} Runs of other packages and "
        "measurements of speed that were not repeated come from `tests/benchmarks/earlier`, made on the same kind of "
        "machine; times vary with what else it does."
    )


def build_markdown(sources: tables.Sources, pictures: list[str]) -> str:
    """The whole report."""
    ours = {run["variant"] for run in sources.runs if run["package"] == "ours"}
    parts = ["# Benchmarks", describe_method(sources)]
    for dataset in sorted({run["dataset"] for run in sources.runs if "test" in run["errors"]}, reverse=True):
        parts += [f"## {dataset} (mlearn): errors against training time"]
        parts += [f"![Error against training time, {dataset}](images/{p})" for p in pictures if f"_{dataset}." in p]
        parts += [tables.accuracy_table(sources, dataset)]
        if tables.rival_points(sources, dataset, sorted(ours)):
            parts += ["Energies in meV/atom, forces in meV/Å:", tables.lead_table(sources, dataset, sorted(ours))]
    if any(run["dataset"] == "acac" for run in sources.runs):
        parts += [
            "## Acetylacetone: trained at 300 K",
            MOLECULE,
            tables.molecule_table(sources, "acac", TESTS),
        ]
    parts += speed_sections(sources, pictures)
    parts += gpu_sections(sources)
    cited = dict.fromkeys(entry["source"] for entry in sources.published)
    parts += ["## Sources of published figures", "\n".join(f"- {source}" for source in cited)]
    return "\n\n".join(part for part in parts if part) + "\n"


def speed_sections(sources: tables.Sources, pictures: list[str]) -> list[str]:
    """MD speed, committee, cost against size."""
    parts = []
    if tables.speed_rows(sources, "speed", "cpu"):
        parts += [
            "## Molecular dynamics, one thread",
            "Silicon through each package's ASE calculator, neighbour list and stress included; CPU time, in turns.",
            tables.speed_table(sources, "speed"),
        ]
    if committee := tables.committee_table(sources):
        parts += ["## Committee against one member, equal steps", committee]
    if tables.speed_rows(sources, "size", "cpu"):
        parts += ["## Cost against size", "![Cost against size](images/benchmark_size.png)" if pictures else ""]
        parts += [tables.size_table(sources)]
    if any(record["kind"] == "training_cost" and record["device"] == "cpu" for record in sources.speed):
        parts += ["Training:", tables.training_table(sources)]
    return parts


def gpu_sections(sources: tables.Sources) -> list[str]:
    """Everything measured on a GPU, or that nothing was."""
    runs = [run for run in sources.runs if run["device"] == "cuda"]
    speed = [record for record in sources.speed if record["device"] == "cuda"]
    parts = ["## GPU"]
    if not runs and not speed:
        return [*parts, "No GPU here: these rows were not measured."]
    parts += [", ".join(sorted({record["machine"]["processor"] for record in [*runs, *speed]}))]
    for dataset in sorted({run["dataset"] for run in runs}):
        table = tables.accuracy_table if dataset != "acac" else partial(tables.molecule_table, tests=TESTS)
        parts += [f"{dataset}:", table(sources, dataset, device="cuda")]
    for kind, text in (("speed", "MD through ASE:"), ("batch", "Many walkers at once, a step of all of them:")):
        if tables.speed_rows(sources, kind, "cuda"):
            parts += [text, tables.speed_table(sources, kind, "cuda", "wall_us")]
    return parts


def update_docs(report: Path, docs: Path) -> None:
    """Copy the report and its pictures into the documentation."""
    shutil.copy(report / "benchmarks.md", docs / "benchmarks.md")
    for picture in (report / "images").glob("benchmark_*.png"):
        shutil.copy(picture, docs / "images" / picture.name)


def main() -> None:
    """Write ``report/`` below the results, and refresh the documentation where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--published", type=Path, default=HERE / "published.yaml")
    parser.add_argument("--earlier", type=Path, default=HERE / "earlier", help="records for what results lack")
    parser.add_argument("--config", type=Path, default=HERE / "config.yaml")
    parser.add_argument("--update-docs", type=Path, help="copy the report into this folder")
    given = parser.parse_args()
    sources = tables.load_sources(given.results, given.published, given.config, given.earlier)
    report = given.results / "report"
    report.mkdir(parents=True, exist_ok=True)
    pictures = draw_pictures(sources, report / "images")
    (report / "benchmarks.md").write_text(build_markdown(sources, pictures), encoding="utf-8")
    pd.DataFrame(tables.flatten_runs(sources.runs)).to_csv(report / "benchmarks.csv", index=False)
    pd.DataFrame(tables.flatten_speed(sources.speed)).to_csv(report / "benchmarks_speed.csv", index=False)
    if given.update_docs is not None:
        update_docs(report, given.update_docs)


if __name__ == "__main__":
    main()
