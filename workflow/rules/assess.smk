localrules:
    record_provenance,


# A checkpoint, for its file says whether the loop goes on.
checkpoint assess_potential:
    input:
        old=collect("results/{{system}}/iter_{i}/train_committee/{file}", i=iteration_before, file=POTENTIAL_FILES),
        potential=multiext("results/{system}/iter_{iteration}/train_committee/potential", ".json", ".safetensors"),
        dataset=multiext(
            "results/{system}/iter_{iteration}/collect_dataset/", "new.extxyz", "test.extxyz", "dataset.json"
        ),
        references="results/{system}/label_references/references.extxyz",
        frames="results/{system}/iter_{iteration}/score_frames/frames.nc",
        candidates="results/{system}/iter_{iteration}/select_candidates/candidates.extxyz",
        # Decisions are taken anew in their order: labels of a later iteration, which see this one's
        # as ancient, would else begin before an earlier one has been reached that now ends the loop.
        earlier=collect("results/{{system}}/iter_{i}/assess_potential/assessment.json", i=iteration_before),
        studies=collect("results/{{system}}/iter_{{iteration}}/studies/{study}/property.nc", study=GATE_STUDIES),
        study_references=collect("results/{{system}}/studies/{study}/reference.nc", study=GATE_STUDIES),
    output:
        assessment="results/{system}/iter_{iteration}/assess_potential/assessment.json",
        parity="results/{system}/iter_{iteration}/assess_potential/parity.nc",
        eos="results/{system}/iter_{iteration}/assess_potential/eos.nc",
        ladder="results/{system}/iter_{iteration}/assess_potential/ladder.json",
    log:
        "results/{system}/logs/iter_{iteration}/assess_potential.log",
    benchmark:
        "results/{system}/iter_{iteration}/benchmarks/assess_potential.tsv"
    conda:
        POTENTIAL_ENVIRONMENT
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(60),
    params:
        settings=assessment_settings,
        studies=gate_settings,
        code=code_of_step("assess_potential"),
    message:
        "iter_{wildcards.iteration} assess_potential: errors, calibration, properties; go on or stop"
    script:
        "../../scripts/assess_potential.py"


rule record_provenance:
    input:
        # Depends on every shard, so that they need not be named again: a thousand would double the time of planning.
        collect_dataset="results/{system}/iter_{iteration}/collect_dataset/train.extxyz",
        train_committee="results/{system}/iter_{iteration}/train_committee/potential.safetensors",
        explore_walkers=collect(
            "results/{{system}}/iter_{{iteration}}/explore_walkers/walker_{walker}.nc", walker=walkers
        ),
        score_frames="results/{system}/iter_{iteration}/score_frames/frames.nc",
        select_candidates="results/{system}/iter_{iteration}/select_candidates/candidates.extxyz",
        assess_potential="results/{system}/iter_{iteration}/assess_potential/assessment.json",
        references="results/{system}/label_references/references.extxyz",
        import_data=collect("results/{{system}}/iter_{i}/import_data/data.{kind}", i=imported, kind=["extxyz", "json"]),
        relabel_data=collect("results/{{system}}/iter_{i}/relabel_data/comparison.json", i=compared),
    output:
        provenance="results/{system}/iter_{iteration}/provenance.json",
    log:
        "results/{system}/logs/iter_{iteration}/record_provenance.log",
    conda:
        "../../envs/mlip.yaml"
    params:
        shards=shard_files("extxyz"),
        records=shard_files("json"),
        config=config_in_force,
        benchmarks="results/{system}/iter_{iteration}/benchmarks",
    message:
        "iter_{wildcards.iteration} record_provenance: versions, hashes, costs"
    script:
        "../../scripts/record_provenance.py"
