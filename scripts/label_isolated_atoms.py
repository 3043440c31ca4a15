"""Label isolated atoms of every element in the starting structures and in existing data."""

from pathlib import Path

from mlip.config.structures import StartingStructure
from mlip.config.system import parse_config
from mlip.jobs.job import log_step, report_progress
from mlip.labels.process.launcher import use_mpi
from mlip.labels.store import label_store

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    use_mpi(dict(snakemake.resources.items()))
    from mlip.io.extxyz import read_structures
    from mlip.loop.label_isolated_atoms import label_isolated_atoms
    from mlip.structures.starting import load_starting_structure

    structures = [load_starting_structure(StartingStructure(**source)) for source in snakemake.params.sources]
    structures += [atoms for path in snakemake.input.data for atoms in read_structures(path)]
    label_isolated_atoms(
        sorted({symbol for atoms in structures for symbol in atoms.symbols}),
        # The rule's params hold only what is a reason to label again; time limits and the like are none.
        parse_config(snakemake.config).label,
        store=label_store(),
        out=Path(snakemake.output.isolated),
        progress=report_progress(),
    )
