"""Ouroboros: from one crystal structure to a validated machine-learned potential."""

from snakemake.utils import min_version

min_version("9.0")


# Only without --configfile: Snakemake would merge the two, and a key missing from the user's
# file would silently take the demo's value.
if not workflow.overwrite_configfiles:

    configfile: f"{workflow.basedir}/config/silicon.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/params.smk"
include: "workflow/rules/driver.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/label.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/explore.smk"
include: "workflow/rules/assess.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/study_inputs.smk"
include: "workflow/rules/studies.smk"
include: "workflow/rules/experiments.smk"


rule all:
    default_target: True
    input:
        f"results/{CONFIG.system}/report.html",
        f"results/{CONFIG.system}/summary.json",
        f"results/{CONFIG.system}/potential/potential.json",
