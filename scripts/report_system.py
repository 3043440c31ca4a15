"""Write the report and the summary of the whole loop."""

from pathlib import Path

from mlip.config.system import parse_config
from mlip.jobs.job import log_step

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    from mlip.report import report_system

    page = Path(snakemake.output.page)
    report_system(
        parse_config(snakemake.config),
        page.parent,
        range(len(snakemake.input.assessments)),
        out_html=page,
        out_selection=Path(snakemake.output.selection),
        out_summary=Path(snakemake.output.summary),
        figures=Path(snakemake.output.figures),
    )
