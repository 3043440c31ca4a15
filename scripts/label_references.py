"""Label the reference equation of state."""

from pathlib import Path

from mlip.config import StartingStructure, parse_config
from mlip.logs import label_store, log_step, report_progress, use_mpi

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    use_mpi(dict(snakemake.resources.items()))
    from mlip.labels import label_references
    from mlip.structures import load_starting_structure

    structure = load_starting_structure(StartingStructure(**snakemake.params.source))
    label_references(
        structure,
        # The rule's params hold only what is a reason to label again; time limits and the like are none.
        parse_config(snakemake.config).label,
        snakemake.params.volumes if structure.pbc.all() else [],
        store=label_store(),
        out=Path(snakemake.output.structures),
        progress=report_progress(),
    )
