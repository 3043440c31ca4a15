"""Record what made one iteration."""

from pathlib import Path

from mlip.jobs.job import log_step

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    from mlip.loop.record_provenance import record_provenance

    files = dict(snakemake.input.items()) | {"label_structures": snakemake.params.shards}
    record_provenance(
        snakemake.params.config,
        int(snakemake.wildcards.iteration),
        {step: [Path(p) for p in ([paths] if isinstance(paths, str) else paths)] for step, paths in files.items()},
        Path(snakemake.params.benchmarks),
        [Path(path) for path in snakemake.params.records],
        out=Path(snakemake.output.provenance),
    )
