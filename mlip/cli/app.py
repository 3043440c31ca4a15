"""The ``mlip`` command. Heavy imports sit inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from mlip import __version__
from mlip.cli.data import add_data_commands
from mlip.cli.label import add_label_command, show_label
from mlip.cli.studies import add_commands

if TYPE_CHECKING:
    from mlip.config.train import Train

app = typer.Typer(
    name="mlip",
    help="Ouroboros: machine-learned interatomic potentials by active learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[Path, typer.Argument(help="Configuration of the system, e.g. config/silicon.yaml.")]
DataFile = Annotated[Path, typer.Argument(help="Extended XYZ with energies and forces.")]
Device = Annotated[str, typer.Option(help="Torch device: cpu, cuda, …")]


def _fail(error: Exception) -> NoReturn:
    from mlip.io.files import explain_os_error

    message = explain_os_error(error) if isinstance(error, OSError) else str(error)
    typer.echo(f"mlip: {message}", err=True)
    raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Machine-learned interatomic potentials by active learning."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    config: ConfigFile,
    cores: Annotated[int | None, typer.Option(help="Cores to use on this machine; not with --profile.")] = None,
) -> None:
    """Run the loop with progress. Further options go to Snakemake, e.g. --profile slurm."""
    from mlip.cli.driver import WorkflowFailed, read_summary, run_loop, show_plan
    from mlip.config.system import load_config
    from mlip.io.layout import output_path
    from mlip.report import summary_table

    arguments = list(context.args)
    if cores is not None or not any(a.startswith(("--profile", "--cores", "-c", "--jobs", "-j")) for a in arguments):
        arguments += ["--cores", str(cores or os.cpu_count() or 1)]
    try:
        loaded = load_config(config)
        results = Path("results") / loaded.system
        if {"-n", "--dry-run", "--dryrun"} & set(arguments):
            raise typer.Exit(show_plan(config, arguments))
        busy = run_loop(config, loaded, arguments, results=results, show=typer.echo)
        typer.echo("" if busy else "Nothing to do: the loop is finished and no input has changed.")
        if not output_path(results, "report_system", "summary.json").is_file():
            typer.echo("The loop is not finished: the targets or rules that were asked for leave out its report.")
            return
        typer.echo(summary_table(read_summary(results)))
        page = output_path(results, "report_system", "report.html")
        potential = output_path(results, "deploy_potential", "potential.json").parent
        typer.echo(f"\nReport: {page}\nPotential: {potential}")
    except (ValueError, OSError, WorkflowFailed) as error:
        _fail(error)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _training_settings(config: Path | None, file: Path | None) -> Train:
    """Section ``train`` of a JSON ``file``, else of a configuration, else the defaults."""
    from mlip.config.system import load_config, validate_section
    from mlip.config.train import Train
    from mlip.io.files import read_json

    settings = load_config(config).train if config else Train()
    return settings if file is None else validate_section(Train, read_json(file), str(file))


def _check_training(max_seconds: float | None, previous: Path | None, device: str) -> None:
    """Refuse what would end a training only after the data have been read."""
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"--max-seconds {max_seconds}: must be more than 0")
    if previous is not None and not previous.is_dir():
        raise ValueError(f"--previous {previous}: no such folder; give the folder of a potential, or leave it out")
    _check_device(device)


@app.command()
def train(
    data: DataFile,
    out: Annotated[Path, typer.Option(help="Folder of the potential.")],
    valid: Annotated[
        Path | None, typer.Option(help="Validation set; without it a share of the data is held out.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration whose `train` section is used.")] = None,
    settings_file: Annotated[
        Path | None, typer.Option("--settings", help="JSON of a `train` section, instead of a configuration.")
    ] = None,
    isolated: Annotated[Path | None, typer.Option(help="JSON with the energy of an isolated atom per element.")] = None,
    audits: Annotated[Path | None, typer.Option(help="Structures of whose `reason=audit` ones calibrate, too.")] = None,
    previous: Annotated[Path | None, typer.Option(help="Folder of a potential whose weights to start from.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of initialisation, batches and held-out data.")] = 0,
    device: Device = "cpu",
    max_seconds: Annotated[
        float | None, typer.Option(help="Anneal to this time instead of to a number of steps.")
    ] = None,
    progress_file: Annotated[Path | None, typer.Option("--progress", help="JSON to keep the progress in.")] = None,
) -> None:
    """Train a potential on labelled structures; on several GPUs with `torchrun … -m mlip train …`."""
    from mlip.config.loop import Collect
    from mlip.io.extxyz import read_structures
    from mlip.jobs.job import report_progress
    from mlip.loop.collect_dataset import read_labelled
    from mlip.structures.roles import is_audit

    try:
        settings = _training_settings(config, settings_file)
        energies = _read_energies(isolated) if isolated else None
        _check_training(max_seconds, previous, device)
        structures = read_labelled(data)
        held_out = read_labelled(valid) if valid else []
        if valid is None:
            structures, held_out = _hold_out(structures, Collect().valid_fraction, seed)
        from mlip.loop.train_committee import TrainingRequest, train_committee

        out.mkdir(parents=True, exist_ok=True)  # now rather than after hours of training
        result = train_committee(
            TrainingRequest(
                structures,
                held_out,
                settings,
                out,
                seed=seed,
                device=device,
                isolated_energies=energies or None,
                previous=previous,
                checkpoint=out / "checkpoint",
                max_seconds=max_seconds,
                progress=report_progress(progress_file),
                audits=[atoms for atoms in read_structures(audits) if is_audit(atoms)] if audits else (),
            )
        )
    except (ValueError, OSError, ArithmeticError) as error:
        _fail(error)
    if result:  # one process of several reports
        typer.echo(f"Potential: {out}")


def _check_device(name: str) -> None:
    """Refuse a device that torch does not know or that is not there."""
    import torch

    try:
        if name == "cuda":  # under torchrun each process has its own; a context on the first would cost memory there
            name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--device {name}: cannot be used here ({reason}); use cpu, or cuda where there is a GPU"
        ) from None


def _read_energies(path: Path) -> dict[str, float]:
    """The isolated atoms' energies in eV by symbol that a JSON file holds."""
    from mlip.io.files import FileContentError, read_json

    energies = read_json(path)
    if not isinstance(energies, dict) or not all(
        isinstance(e, int | float) and math.isfinite(e) for e in energies.values()
    ):
        raise FileContentError(f'{path}: expected an energy in eV for each symbol, such as {{"Si": -102.5}}')
    return energies


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _hold_out(structures: list[Any], fraction: float, seed: int) -> tuple[list[Any], list[Any]]:
    """Training and validation structures, drawn by ``seed``; isolated atoms and sole carriers of an element train."""
    from mlip.seeds import derive_rng
    from mlip.structures.roles import hold_out

    order = derive_rng(seed, "hold_out").permutation(len(structures))
    n_valid = max(1, round(fraction * len(structures))) if len(structures) > 2 else 0
    held = hold_out(structures, order.tolist(), n_valid)
    rest = sorted(set(range(len(structures))) - set(held))
    return [structures[i] for i in rest], [structures[i] for i in sorted(held)]


@app.command()
def evaluate(
    potential: Annotated[Path, typer.Argument(help="Folder of the potential.")],
    data: DataFile,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = "cpu",
) -> None:
    """Errors of a potential on labelled structures."""
    from mlip.loop.collect_dataset import read_labelled
    from mlip.potential import load_potential
    from mlip.potential.evaluation import evaluate_potential
    from mlip.training.data import check_structures

    try:
        _check_device(device)
        structures = read_labelled(data)
        check_structures(structures, str(data))
        result = evaluate_potential(load_potential(potential, device=device), structures)
    except (ValueError, OSError, ArithmeticError) as error:
        _fail(error)
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        units = result.pop("units")
        for name, value in result.items():
            typer.echo(f"{name:14s} {_short(value):>10s} {units.get(name, '')}")


@app.command()
def export(
    potential: Annotated[Path, typer.Argument(help="Folder of the potential.")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    to: Annotated[str, typer.Option("--format", help="pt2 (torch alone), lammps or torchsim.")] = "pt2",
    aot: Annotated[bool, typer.Option("--aot", help="pt2: compile for this processor, twice as fast to run.")] = False,
    float32: Annotated[bool, typer.Option("--float32", help="pt2: single precision.")] = False,
    device: Device = "cpu",
) -> None:
    """Write a potential for use in other codes, with a script that runs it (docs/export.md)."""
    from mlip.export.formats import export_potential

    try:
        for path in export_potential(potential, out, to, compiled=aot, single=float32, device=device):
            typer.echo(path)
    except (ValueError, TypeError, OSError) as error:
        _fail(error)


@app.command()
def explain(
    results: Annotated[Path, typer.Argument(help="Results of a system, e.g. results/silicon.")],
    frame: Annotated[str, typer.Argument(help="Frame of decisions.csv, e.g. iter_00-walker_03-frame_0120.")],
    budget: Annotated[int | None, typer.Option(min=1, help="Structures of a batch to try, audits included.")] = None,
) -> None:
    """Tell why a frame was taken for a label or left, and what another budget or rule would have chosen."""
    from mlip.report.explain import explain_frame

    try:
        for line in explain_frame(results, frame, budget=budget):
            typer.echo(line)
    except (ValueError, OSError) as error:
        _fail(error)


@app.command()
def status(
    config: ConfigFile,
    watch: Annotated[bool, typer.Option("--watch", help="Draw it again every few seconds until the end.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of all results.")] = Path("results"),
) -> None:
    """Where the loop is: steps, jobs, labels, errors, cost and what is left."""
    from mlip.config.system import load_config
    from mlip.jobs.attempts import read_attempts
    from mlip.jobs.slurm.queue import read_queue
    from mlip.status.loop import LoopStatus, read_status
    from mlip.status.text import render_status, watch_status

    try:
        loaded = load_config(config)
        folder = results / loaded.system

        def read() -> LoopStatus:
            known = {attempt.slurm_job for attempt in read_attempts(folder)}
            return read_status(loaded, folder, queue=read_queue(results.absolute().parent, loaded.system, known))

        if watch:
            watch_status(read)
        else:
            typer.echo(render_status(read()))
    except (ValueError, OSError, ArithmeticError) as error:
        _fail(error)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(help="Configuration to check as well.")] = None,
    label: Annotated[
        bool, typer.Option("--label", help="Label, too: do labels agree with themselves, what will the loop cost?")
    ] = False,
) -> None:
    """Check this machine: GPAW, data sets, torch, CUDA, Slurm, disk; and how to mend what is missing."""
    from mlip.doctor.checks import render_checks, run_checks
    from mlip.doctor.labels import check_labels

    if label and config is None:
        _fail(ValueError("--label needs a configuration: mlip doctor --label CONFIG"))
    checks = run_checks(config)
    if label and config is not None:
        checks += check_labels(config, show_label)
    typer.echo(render_checks(checks))
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)


@app.command()
def config_docs(
    check: Annotated[bool, typer.Option("--check", help="Only say whether the files are up to date.")] = False,
) -> None:
    """Write the configuration's JSON schema and reference from mlip/config/."""
    from mlip.config.schema import stale_documents, write_documents

    if check:
        stale = stale_documents()
        if stale:
            _fail(ValueError(f"out of date: {', '.join(map(str, stale))}; run `mlip config-docs`"))
        return
    for path in write_documents():
        typer.echo(f"wrote {path}")


add_label_command(app, _fail)
add_commands(app, _fail)
add_data_commands(app, _fail)

if __name__ == "__main__":
    app()
