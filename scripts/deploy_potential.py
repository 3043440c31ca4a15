"""Deploy the last committee."""

from pathlib import Path

from mlip.jobs.job import log_step

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    from mlip.loop.deploy_potential import deploy_potential

    deploy_potential([Path(path) for path in snakemake.input.potential], Path(snakemake.output[0]).parent)
