localrules:
    deploy_potential,
    report_system,


# Only where `deploy.retrain` asks for it.
rule retrain_committee:
    input:
        before=collect("results/{{system}}/iter_{i}/train_committee/{file}", i=iteration_deployed, file=POTENTIAL_FILES),
        dataset=collect(
            "results/{{system}}/iter_{i}/collect_dataset/{part}.extxyz",
            i=iteration_deployed,
            part=["train", "valid", "test"],
        ),
        isolated="results/{system}/label_references/isolated_atoms.json",
        assessments=collect("results/{{system}}/iter_{i}/assess_potential/assessment.json", i=iterations),
    output:
        weights="results/{system}/retrain_committee/potential.safetensors",
        model="results/{system}/retrain_committee/potential.json",
        training="results/{system}/retrain_committee/training.json",
    log:
        "results/{system}/logs/retrain_committee.log",
    conda:
        POTENTIAL_ENVIRONMENT
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(240),
    params:
        seed=CONFIG.seed,
        code=code_of_step("retrain_committee"),
    message:
        "retrain_committee: the last committee, on all labels"
    script:
        "../../scripts/retrain_committee.py"


rule deploy_potential:
    input:
        potential=potential_to_deploy,
        # Named so that Snakemake asks again for the last iteration after each assessment.
        assessments=collect("results/{{system}}/iter_{i}/assess_potential/assessment.json", i=iterations),
    output:
        "results/{system}/potential/potential.safetensors",
        "results/{system}/potential/potential.json",
        "results/{system}/potential/training.json",
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
        assessments=collect("results/{{system}}/iter_{i}/assess_potential/assessment.json", i=iterations),
        provenance=collect("results/{{system}}/iter_{i}/provenance.json", i=iterations),
        decisions=collect("results/{{system}}/iter_{i}/select_candidates/decisions.csv", i=iterations),
        scores=collect(
            "results/{{system}}/iter_{i}/score_frames/{file}.nc", i=iterations, file=("frames", "environments")
        ),
        datasets=collect("results/{{system}}/iter_{i}/collect_dataset/dataset.json", i=iterations),
        potential="results/{system}/potential/potential.json",
    output:
        page="results/{system}/report.html",
        selection="results/{system}/selection.html",
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
