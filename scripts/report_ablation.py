"""The ablation's table."""

from pathlib import Path

from mlip.jobs.job import log_step

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    from mlip.io.netcdf import read_netcdf
    from mlip.studies.elastic.experiments.ablation import write_ablation

    results = [Path(path) for path in snakemake.input.results]
    write_ablation(results, read_netcdf(Path(snakemake.input.reference)), Path(snakemake.output.table))
