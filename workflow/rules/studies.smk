# Beside the loop, on request: rounds of a study, whichever it is. Its experiments are in experiments.smk.
localrules:
    join_labels,
    report_study,


rule refer_study:
    input:
        structures=structure_files_of_study,
        references="results/{system}/label_references/references.extxyz",
    output:
        reference="results/{system}/studies/{study}/reference.nc",
        structures="results/{system}/studies/{study}/reference.extxyz",
        records="results/{system}/studies/{study}/reference.json",
    log:
        "results/{system}/logs/studies/{study}/refer_study.log",
    benchmark:
        "results/{system}/studies/{study}/benchmarks/refer_study.tsv"
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        settings=study_settings,
        label=label_settings,
        sources=STARTING_STRUCTURES,
        seed=CONFIG.seed,
        code=code_of_study("refer_study"),
    message:
        "refer_study: {wildcards.study}, reference values"
    script:
        "../../scripts/refer_study.py"


rule measure_study:
    input:
        structures=structure_files_of_study,
        potential=potential_of_round,
        known=reference_to_begin_with,
        references="results/{system}/label_references/references.extxyz",
        train=training_data_of_round,
        test=test_data_of_round,
        # Named so that Snakemake asks again for the last iteration after each assessment.
        assessments=assessments_before_study,
    output:
        property="results/{system}/studies/{study}/round_{round}/property.nc",
        frames="results/{system}/studies/{study}/round_{round}/frames.extxyz",
    log:
        "results/{system}/logs/studies/{study}/round_{round}/measure_study.log",
    benchmark:
        "results/{system}/studies/{study}/benchmarks/measure_study-{round}.tsv"
    conda:
        POTENTIAL_ENVIRONMENT
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        settings=study_settings,
        sources=STARTING_STRUCTURES,
        seed=CONFIG.seed,
        code=code_of_study("measure_study"),
    message:
        "measure_study: {wildcards.study}, round {wildcards.round}"
    script:
        "../../scripts/measure_study.py"


# The same with the potential of an iteration, for convergence that waits for a study (`assess.studies`).
use rule measure_study as measure_study_in_loop with:
    input:
        structures=structure_files_of_study,
        known=reference_to_begin_with,
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


# A checkpoint, for its verdict says whether there are more rounds.
checkpoint acquire_candidates:
    input:
        property="results/{system}/studies/{study}/round_{round}/property.nc",
        frames="results/{system}/studies/{study}/round_{round}/frames.extxyz",
        reference="results/{system}/studies/{study}/reference.nc",
        potential=potential_of_round,
    output:
        candidates="results/{system}/studies/{study}/round_{round}/candidates.extxyz",
        decisions="results/{system}/studies/{study}/round_{round}/decisions.csv",
        verdict="results/{system}/studies/{study}/round_{round}/verdict.json",
    log:
        "results/{system}/logs/studies/{study}/round_{round}/acquire_candidates.log",
    benchmark:
        "results/{system}/studies/{study}/benchmarks/acquire_candidates-{round}.tsv"
    conda:
        POTENTIAL_ENVIRONMENT
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(60),
    params:
        settings=study_settings,
        seed=CONFIG.seed,
        code=code_of_study("acquire_candidates"),
    message:
        "acquire_candidates: {wildcards.study}, after round {wildcards.round}"
    script:
        "../../scripts/acquire_candidates.py"


rule label_candidates:
    input:
        candidates=candidates_before,
    output:
        structures="results/{system}/studies/{study}/round_{round}/labels/shard_{shard}.extxyz",
        records="results/{system}/studies/{study}/round_{round}/labels/shard_{shard}.json",
    log:
        "results/{system}/logs/studies/{study}/round_{round}/label_candidates-{shard}.log",
    benchmark:
        "results/{system}/studies/{study}/benchmarks/label_candidates-{round}-{shard}.tsv"
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        settings=study_label_settings,
        code=code_of_step("label_candidates"),
    message:
        "label_candidates: {wildcards.study}, round {wildcards.round}, shard {wildcards.shard}"
    script:
        "../../scripts/label_candidates.py"


rule join_labels:
    input:
        shards=study_shards("extxyz"),
        records=study_shards("json"),
        previous=dataset_before,
        assessments=assessments_before_study,
    output:
        train="results/{system}/studies/{study}/round_{round}/dataset/train.extxyz",
        valid="results/{system}/studies/{study}/round_{round}/dataset/valid.extxyz",
        test="results/{system}/studies/{study}/round_{round}/dataset/test.extxyz",
        new="results/{system}/studies/{study}/round_{round}/dataset/new.extxyz",
        summary="results/{system}/studies/{study}/round_{round}/dataset/dataset.json",
    log:
        "results/{system}/logs/studies/{study}/round_{round}/join_labels.log",
    benchmark:
        "results/{system}/studies/{study}/benchmarks/join_labels-{round}.tsv"
    conda:
        "../../envs/mlip.yaml"
    params:
        settings=section("collect"),
        screens=collect_screens,
        first_iteration=CONFIG.max_iterations,
        code=code_of_step("join_labels"),
    message:
        "join_labels: {wildcards.study}, round {wildcards.round}"
    script:
        "../../scripts/join_labels.py"


use rule train_committee as train_study with:
    input:
        train="results/{system}/studies/{study}/round_{round}/dataset/train.extxyz",
        valid="results/{system}/studies/{study}/round_{round}/dataset/valid.extxyz",
        test="results/{system}/studies/{study}/round_{round}/dataset/test.extxyz",
        isolated="results/{system}/label_references/isolated_atoms.json",
        previous=weights_before,
        assessments=assessments_before_study,
    output:
        weights="results/{system}/studies/{study}/round_{round}/potential/potential.safetensors",
        model="results/{system}/studies/{study}/round_{round}/potential/potential.json",
        training="results/{system}/studies/{study}/round_{round}/potential/training.json",
    log:
        "results/{system}/logs/studies/{study}/round_{round}/train_study.log",
    benchmark:
        "results/{system}/studies/{study}/benchmarks/train_study-{round}.tsv"
    params:
        settings=training_of_study,
        seed=CONFIG.seed,
        code=code_of_step("train_study"),
    message:
        "train_study: {wildcards.study}, round {wildcards.round}"


rule report_study:
    input:
        properties=properties_of_study,
        decisions=decisions_of_study,
        reference="results/{system}/studies/{study}/reference.nc",
    output:
        page="results/{system}/studies/{study}/report.html",
        table="results/{system}/studies/{study}/table.md",
        result="results/{system}/studies/{study}/result.json",
        figures=directory("results/{system}/studies/{study}/figures"),
    log:
        "results/{system}/logs/studies/{study}/report_study.log",
    conda:
        "../../envs/mlip.yaml"
    params:
        settings=study_settings,
        code=code_of_study("report_study"),
    message:
        "report_study: results/{wildcards.system}/studies/{wildcards.study}/report.html"
    script:
        "../../scripts/report_study.py"
