"""Label the reference equation of state."""

from pathlib import Path

from mlip.config.structures import StartingStructure
from mlip.config.system import parse_config
from mlip.jobs.job import log_step, report_progress
from mlip.labels.process.launcher import use_mpi
from mlip.labels.store import label_store

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    use_mpi(dict(snakemake.resources.items()))
    from mlip.loop.label_references import label_references
    from mlip.structures.starting import load_starting_structure

    label_references(
        {
            int(number): load_starting_structure(StartingStructure(**source))
            for number, source in snakemake.params.sources.items()
        },
        # The rule's params hold only what is a reason to label again; time limits and the like are none.
        parse_config(snakemake.config).label,
        snakemake.params.volumes,
        store=label_store(),
        out=Path(snakemake.output.structures),
        progress=report_progress(),
    )
