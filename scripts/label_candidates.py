"""Label one shard of a study's candidates."""

from pathlib import Path

from mlip.config.system import parse_config
from mlip.jobs.job import log_step, report_progress
from mlip.labels.process.launcher import use_mpi
from mlip.labels.store import label_store

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    use_mpi(dict(snakemake.resources.items()))
    from mlip.io.extxyz import read_structures
    from mlip.loop.label_structures import label_structures

    # The rule's params hold only what is a reason to label again; time limits and the like are none.
    config = parse_config(snakemake.config)
    shard = int(snakemake.wildcards.shard)
    records = Path(snakemake.output.records)
    label_structures(
        read_structures(str(snakemake.input.candidates))[shard :: config.label.n_shards],
        config.label,
        store=label_store(),
        # After all iterations of the loop.
        iteration=config.max_iterations + int(snakemake.wildcards.round) - 1,
        shard=shard,
        out_structures=Path(snakemake.output.structures),
        out_records=records,
        progress=report_progress(records.with_suffix(".progress.json")),
    )
