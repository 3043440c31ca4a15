localrules:
    deploy_potential,
    report_system,


rule deploy_potential:
    input:
        potential=final_potential,
        # Named so that Snakemake asks again for the last iteration after each assessment.
        assessments=every_iteration("assess_potential/assessment.json"),
    output:
        [f"results/{{system}}/potential/{name}" for name in POTENTIAL_FILES],
    log:
        "results/{system}/logs/deploy_potential.log",
    conda:
        POTENTIAL_ENVIRONMENT
    message:
        "deploy_potential: results/{wildcards.system}/potential"
    script:
        "../../scripts/deploy_potential.py"


rule report_system:
    input:
        assessments=every_iteration("assess_potential/assessment.json"),
        provenance=every_iteration("provenance.json"),
        decisions=every_iteration("select_candidates/decisions.csv"),
        frames=every_iteration("score_frames/frames.nc"),
        datasets=every_iteration("collect_dataset/dataset.json"),
        potential="results/{system}/potential/potential.json",
    output:
        page="results/{system}/report.html",
        summary="results/{system}/summary.json",
        figures=report(
            directory("results/{system}/figures"),
            patterns=["{figure}.png"],
            caption="../report/figures.rst",
            category="{system}",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/{system}/logs/report_system.log",
    conda:
        "../../envs/mlip.yaml"
    params:
        # The script reads the configuration; here stands what makes the report outdated.
        config=CONFIG.model_dump(mode="json", exclude={"max_iterations", "studies"}),
        code=code_of_step("report_system"),
    message:
        "report_system: results/{wildcards.system}/report.html"
    script:
        "../../scripts/report_system.py"
