"""Select the structures that the next iteration labels."""

from pathlib import Path

from mlip.config import Guards, Select
from mlip.logs import log_step

with log_step(snakemake.log[0], snakemake.threads):
    from mlip.files import read_json
    from mlip.selection import select_candidates

    max_labels = snakemake.params.max_labels
    used = read_json(snakemake.input.dataset)["labels_total"]
    select_candidates(
        Path(snakemake.input.frames),
        [Path(path) for path in snakemake.input.walkers],
        settings=Select(**snakemake.params.settings["select"]),
        guards=Guards(**snakemake.params.guards),
        seed=snakemake.params.seed,
        iteration=int(snakemake.wildcards.iteration),
        out=Path(snakemake.output.candidates),
        decisions=Path(snakemake.output.decisions),
        labels_left=None if max_labels is None else max(0, max_labels - used),
    )
