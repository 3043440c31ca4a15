"""Select the structures that the next iteration labels."""

from pathlib import Path

from mlip.config.label import Guards
from mlip.config.loop import Select
from mlip.jobs.job import log_step

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    from mlip.loop.select_candidates import select_candidates

    select_candidates(
        Path(snakemake.input.frames).parent,
        [Path(path) for path in snakemake.input.walkers],
        settings=Select(**snakemake.params.settings["select"]),
        guards=Guards(**snakemake.params.guards),
        seed=snakemake.params.seed,
        iteration=int(snakemake.wildcards.iteration),
        out=Path(snakemake.output.candidates),
        decisions=Path(snakemake.output.decisions),
    )
