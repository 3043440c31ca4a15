rule train_committee:
    input:
        train="results/{system}/iter_{iteration}/collect_dataset/train.extxyz",
        valid="results/{system}/iter_{iteration}/collect_dataset/valid.extxyz",
        test="results/{system}/iter_{iteration}/collect_dataset/test.extxyz",
        isolated="results/{system}/label_references/isolated_atoms.json",
        previous=collect("results/{{system}}/iter_{i}/train_committee/{file}", i=restart_from, file=POTENTIAL_FILES),
        initial=initial_potential,
    output:
        weights="results/{system}/iter_{iteration}/train_committee/potential.safetensors",
        model="results/{system}/iter_{iteration}/train_committee/potential.json",
        training="results/{system}/iter_{iteration}/train_committee/training.json",
    log:
        "results/{system}/logs/iter_{iteration}/train_committee.log",
    benchmark:
        "results/{system}/iter_{iteration}/benchmarks/train_committee.tsv"
    conda:
        POTENTIAL_ENVIRONMENT
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(240),
    params:
        settings=section("train"),
        seed=CONFIG.seed,
        code=code_of_step("train_committee"),
    message:
        "iter_{wildcards.iteration} train_committee: train and calibrate"
    script:
        "../../scripts/train_committee.py"
