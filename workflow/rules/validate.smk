# Beside the loop, on request: can the deployed potential be trusted? `make validate`


rule label_elasticity:
    input:
        references="results/{system}/label_references/references.extxyz",
    output:
        elasticity="results/{system}/validate_potential/elasticity.json",
    log:
        "results/{system}/logs/label_elasticity.log",
    benchmark:
        "results/{system}/validate_potential/label_elasticity.tsv"
    conda:
        "../../envs/dft.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        settings=section("label"),
        code=code_digest("mlip.studies.validation.reference"),
    message:
        "label_elasticity: elastic constants by the labeller"
    script:
        "../../scripts/label_elasticity.py"


rule validate_potential:
    input:
        structures=STRUCTURE_FILES,
        potential="results/{system}/potential/potential.json",
        weights="results/{system}/potential/potential.safetensors",
        references="results/{system}/label_references/references.extxyz",
        elasticity="results/{system}/validate_potential/elasticity.json",
        # The last one is the deployed potential's.
        training=every_iteration("collect_dataset/train.extxyz"),
        # Named so that Snakemake asks again for the last iteration after each assessment.
        assessments=every_iteration("assess_potential/assessment.json"),
    output:
        result="results/{system}/validate_potential/validation.json",
        table="results/{system}/validate_potential/validation.md",
        figure="results/{system}/validate_potential/validation.png",
    log:
        "results/{system}/logs/validate_potential.log",
    benchmark:
        "results/{system}/validate_potential/validate_potential.tsv"
    conda:
        POTENTIAL_ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        source=CONFIG.structures[0].model_dump(mode="json"),
        nve={"duration": 50000, "timestep": 1.0, "temperature": 600},
        seed=CONFIG.seed,
        code=code_digest("mlip.studies.validation.study", BACKEND.potential_code),
    message:
        "validate_potential: results/{wildcards.system}/validate_potential/validation.md"
    script:
        "../../scripts/validate_potential.py"
