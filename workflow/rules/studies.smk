# Beside the loop, on request: what every study shares. A study's own rules are in studies/<name>.smk.
localrules:
    join_labels,
    report_study,


rule refer_study:
    input:
        structures=STRUCTURE_FILES,
        references="results/{system}/label_references/references.extxyz",
    output:
        reference=f"{STUDY}/reference.nc",
    log:
        "results/{system}/logs/studies/{study}/refer_study.log",
    benchmark:
        f"{STUDY}/benchmarks/refer_study.tsv"
    conda:
        "../../envs/dft.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        settings=study_settings,
        label=label_settings,
        sources=[source.model_dump(mode="json") for source in CONFIG.structures],
        seed=CONFIG.seed,
        code=study_code,
    message:
        "refer_study: {wildcards.study}, reference values"
    script:
        "../../scripts/refer_study.py"


rule measure_study:
    input:
        structures=STRUCTURE_FILES,
        potential=potential_of_round,
        references="results/{system}/label_references/references.extxyz",
        train=lambda wildcards: dataset_of_round(wildcards)[0],
        test=lambda wildcards: dataset_of_round(wildcards)[2],
        # Named so that Snakemake asks again for the last iteration after each assessment.
        assessments=every_iteration("assess_potential/assessment.json"),
    output:
        property=f"{STUDY}/round_{{round}}/property.nc",
        frames=f"{STUDY}/round_{{round}}/frames.extxyz",
    log:
        "results/{system}/logs/studies/{study}/round_{round}/measure_study.log",
    benchmark:
        f"{STUDY}/benchmarks/measure_study-{{round}}.tsv"
    conda:
        POTENTIAL_ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        settings=study_settings,
        sources=[source.model_dump(mode="json") for source in CONFIG.structures],
        seed=CONFIG.seed,
        code=study_code,
    message:
        "measure_study: {wildcards.study}, round {wildcards.round}"
    script:
        "../../scripts/measure_study.py"


# The same with the potential of an iteration, for convergence that waits for a study (`assess.studies`).
use rule measure_study as measure_study_in_loop with:
    input:
        structures=STRUCTURE_FILES,
        potential=[f"results/{{system}}/iter_{{iteration}}/train_committee/{name}" for name in POTENTIAL_FILES],
        references="results/{system}/label_references/references.extxyz",
        train="results/{system}/iter_{iteration}/collect_dataset/train.extxyz",
        test="results/{system}/iter_{iteration}/collect_dataset/test.extxyz",
    output:
        property="results/{system}/iter_{iteration}/studies/{study}/property.nc",
        frames="results/{system}/iter_{iteration}/studies/{study}/frames.extxyz",
    log:
        "results/{system}/logs/iter_{iteration}/measure_study-{study}.log",
    benchmark:
        "results/{system}/iter_{iteration}/benchmarks/measure_study-{study}.tsv"
    message:
        "iter_{wildcards.iteration} measure_study: {wildcards.study}"


rule acquire_candidates:
    input:
        property=f"{STUDY}/round_{{round}}/property.nc",
        frames=f"{STUDY}/round_{{round}}/frames.extxyz",
        reference=f"{STUDY}/reference.nc",
        potential=potential_of_round,
    output:
        candidates=f"{STUDY}/round_{{round}}/candidates.extxyz",
        decisions=f"{STUDY}/round_{{round}}/decisions.csv",
    log:
        "results/{system}/logs/studies/{study}/round_{round}/acquire_candidates.log",
    benchmark:
        f"{STUDY}/benchmarks/acquire_candidates-{{round}}.tsv"
    conda:
        POTENTIAL_ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(60),
    params:
        settings=study_settings,
        seed=CONFIG.seed,
        code=study_code,
    message:
        "acquire_candidates: {wildcards.study}, after round {wildcards.round}"
    script:
        "../../scripts/acquire_candidates.py"


rule label_candidates:
    input:
        candidates=lambda wildcards: f"{round_folder(wildcards, before=1)}/candidates.extxyz",
    output:
        structures=f"{STUDY}/round_{{round}}/labels/shard_{{shard}}.extxyz",
        records=f"{STUDY}/round_{{round}}/labels/shard_{{shard}}.json",
    log:
        "results/{system}/logs/studies/{study}/round_{round}/label_candidates-{shard}.log",
    benchmark:
        f"{STUDY}/benchmarks/label_candidates-{{round}}-{{shard}}.tsv"
    conda:
        "../../envs/dft.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        settings=study_label_settings,
        code=code_digest("mlip.loop.label_structures"),
    message:
        "label_candidates: {wildcards.study}, round {wildcards.round}, shard {wildcards.shard}"
    script:
        "../../scripts/label_candidates.py"


rule join_labels:
    input:
        shards=study_shards("extxyz"),
        records=study_shards("json"),
        previous=lambda wildcards: dataset_of_round(wildcards, before=1),
        assessments=every_iteration("assess_potential/assessment.json"),
    output:
        train=f"{STUDY}/round_{{round}}/dataset/train.extxyz",
        valid=f"{STUDY}/round_{{round}}/dataset/valid.extxyz",
        test=f"{STUDY}/round_{{round}}/dataset/test.extxyz",
        new=f"{STUDY}/round_{{round}}/dataset/new.extxyz",
        summary=f"{STUDY}/round_{{round}}/dataset/dataset.json",
    log:
        "results/{system}/logs/studies/{study}/round_{round}/join_labels.log",
    benchmark:
        f"{STUDY}/benchmarks/join_labels-{{round}}.tsv"
    conda:
        "../../envs/mlip.yaml"
    params:
        settings=section("collect"),
        screens=collect_screens,
        first_iteration=CONFIG.max_iterations,
        code=code_digest("mlip.loop.collect_dataset"),
    message:
        "join_labels: {wildcards.study}, round {wildcards.round}"
    script:
        "../../scripts/join_labels.py"


use rule train_committee as train_study with:
    input:
        train=f"{STUDY}/round_{{round}}/dataset/train.extxyz",
        valid=f"{STUDY}/round_{{round}}/dataset/valid.extxyz",
        isolated="results/{system}/label_references/isolated_atoms.json",
        previous=weights_before,
        assessments=every_iteration("assess_potential/assessment.json"),
    output:
        weights=f"{STUDY}/round_{{round}}/potential/potential.safetensors",
        model=f"{STUDY}/round_{{round}}/potential/potential.json",
        training=f"{STUDY}/round_{{round}}/potential/training.json",
    log:
        "results/{system}/logs/studies/{study}/round_{round}/train_study.log",
    benchmark:
        f"{STUDY}/benchmarks/train_study-{{round}}.tsv"
    params:
        settings=final_settings("train"),
        seed=CONFIG.seed,
        code=code_digest("mlip.loop.train_committee", "mlip.io.extxyz", BACKEND.training_code),
    message:
        "train_study: {wildcards.study}, round {wildcards.round}"


rule report_study:
    input:
        properties=rounds_of_study("property.nc"),
        decisions=lambda wildcards: rounds_of_study("decisions.csv")(wildcards)[:-1],
        reference=f"{STUDY}/reference.nc",
    output:
        page=f"{STUDY}/report.html",
        result=f"{STUDY}/result.json",
        figures=directory(f"{STUDY}/figures"),
    log:
        "results/{system}/logs/studies/{study}/report_study.log",
    conda:
        "../../envs/mlip.yaml"
    params:
        settings=study_settings,
        code=study_code,
    message:
        "report_study: results/{wildcards.system}/studies/{wildcards.study}/report.html"
    script:
        "../../scripts/report_study.py"
