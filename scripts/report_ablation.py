"""The ablation's table."""

from pathlib import Path

from mlip.logs import log_step

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    from mlip.studies.elastic.ablation import write_ablation
    from mlip.trajectory import read_netcdf

    results = [Path(path) for path in snakemake.input.results]
    write_ablation(results, read_netcdf(Path(snakemake.input.reference)), Path(snakemake.output.table))
