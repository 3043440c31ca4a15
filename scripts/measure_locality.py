"""Measure whether the labeller's forces decay, so that cells may be carved."""

from pathlib import Path

from mlip.config.loop import Select
from mlip.config.structures import StartingStructure
from mlip.config.system import parse_config
from mlip.config.walkers import Demand
from mlip.jobs.job import log_step, report_progress
from mlip.labels.process.launcher import use_mpi
from mlip.labels.store import label_store

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    use_mpi(dict(snakemake.resources.items()))
    from mlip.io.files import read_json
    from mlip.loop.measure_locality import list_large_cells, measure_locality

    sources = [StartingStructure(**source) for source in snakemake.params.sources]
    select = Select(**snakemake.params.carving["select"])
    demands = [Demand(**demand) for demand in snakemake.params.demands]
    measure_locality(
        list_large_cells(sources, demands, select.max_atoms),
        parse_config(snakemake.config).label,
        select.carve,
        cutoff=float(read_json(snakemake.input.potential)["cutoff"]),
        seed=snakemake.params.seed,
        store=label_store(),
        out=Path(snakemake.output.locality),
        progress=report_progress(),
    )
