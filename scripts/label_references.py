"""Label the reference equation of state and isolated atoms."""

from pathlib import Path

from mlip.config import Label, StartingStructure
from mlip.logs import label_store, log_step, report_progress

with log_step(snakemake.log[0], snakemake.threads):
    from mlip.labels import label_references
    from mlip.structures import load_starting_structure

    structure = load_starting_structure(StartingStructure(**snakemake.params.source))
    others = [load_starting_structure(StartingStructure(**source)) for source in snakemake.params.others]
    label_references(
        structure,
        Label(**snakemake.params.settings["label"]),
        snakemake.params.volumes if structure.pbc.all() else [],
        symbols=sorted({symbol for atoms in [structure, *others] for symbol in atoms.symbols}),
        store=label_store(),
        out_structures=Path(snakemake.output.structures),
        out_isolated=Path(snakemake.output.isolated),
        progress=report_progress(),
    )
