"""Label one shard of an iteration's candidates."""

from pathlib import Path

from mlip.config.system import parse_config
from mlip.jobs.job import log_step, report_progress
from mlip.labels.process.launcher import use_mpi
from mlip.labels.store import label_store

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    use_mpi(dict(snakemake.resources.items()))
    from mlip.io.extxyz import read_structures
    from mlip.labels.codes.kmesh import check_mesh
    from mlip.loop.label_structures import label_structures

    # The rule's params hold only what is a reason to label again; time limits and the like are none.
    settings = parse_config(snakemake.config).at_iteration(int(snakemake.wildcards.iteration)).label
    shard = int(snakemake.wildcards.shard)
    records = Path(snakemake.output.records)
    candidates = read_structures(str(snakemake.input.candidates))
    check_mesh(settings.parameters, candidates)  # of all shards: one may hold cells of one size only
    label_structures(
        candidates[shard :: settings.n_shards],
        settings,
        store=label_store(),
        iteration=int(snakemake.wildcards.iteration),
        shard=shard,
        out_structures=Path(snakemake.output.structures),
        out_records=records,
        progress=report_progress(records.with_suffix(".progress.json")),
    )
