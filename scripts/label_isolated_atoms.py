"""Label isolated atoms of every element in the starting structures."""

from pathlib import Path

from mlip.config import StartingStructure, parse_config
from mlip.logs import label_store, log_step, report_progress, use_mpi

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    use_mpi(dict(snakemake.resources.items()))
    from mlip.labels import label_isolated_atoms
    from mlip.structures import load_starting_structure

    structures = [load_starting_structure(StartingStructure(**source)) for source in snakemake.params.sources]
    label_isolated_atoms(
        sorted({symbol for atoms in structures for symbol in atoms.symbols}),
        # The rule's params hold only what is a reason to label again; time limits and the like are none.
        parse_config(snakemake.config).label,
        store=label_store(),
        out=Path(snakemake.output.isolated),
        progress=report_progress(),
    )
