"""Write the page of a study."""

from pathlib import Path

from mlip.jobs.job import log_step

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    from mlip.studies import load_study
    from mlip.studies.report import report_study

    report_study(
        load_study(snakemake.wildcards.study, snakemake.params.settings),
        snakemake.wildcards.system,
        Path(snakemake.input.reference).parent,
        n_rounds=len(snakemake.input.properties) - 1,
        out=Path(snakemake.output.page).parent,
    )
