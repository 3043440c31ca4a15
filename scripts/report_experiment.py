"""Write a page of a study's experiment."""

from pathlib import Path

from mlip.jobs.job import log_step

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    from mlip.studies.experiments import experiments_of
    from mlip.studies.report import report_experiment

    results = [Path(path) for path in snakemake.input.results]
    report_experiment(
        experiments_of(snakemake.wildcards.study)[snakemake.wildcards.experiment],
        {path.parent.name: path for path in results},
        Path(snakemake.output.page),
        Path(snakemake.output.figures),
    )
