localrules:
    select_candidates,


rule explore_walkers:
    input:
        structures=STRUCTURE_FILES,
        potential=multiext("results/{system}/iter_{iteration}/train_committee/potential", ".json", ".safetensors"),
        usual="results/{system}/iter_{iteration}/train_committee/training.json",
        last=collect(
            "results/{{system}}/iter_{i}/explore_walkers/walker_{walker}.nc",
            i=iteration_before,
            walker=walkers_continued,
        ),
        uncertain=collect("results/{{system}}/iter_{i}/select_candidates/candidates.extxyz", i=iteration_of_candidates),
        # ancient: other targets of convergence are no reason to walk again; those of the ladder are among the settings.
        rungs=ancient(collect("results/{{system}}/iter_{i}/assess_potential/ladder.json", i=iteration_of_rungs)),
    output:
        trajectory="results/{system}/iter_{iteration}/explore_walkers/walker_{walker}.nc",
    log:
        "results/{system}/logs/iter_{iteration}/explore_walkers-{walker}.log",
    benchmark:
        "results/{system}/iter_{iteration}/benchmarks/explore_walkers-{walker}.tsv"
    conda:
        POTENTIAL_ENVIRONMENT
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        plan=walker_plan,
        settings=walker_settings,
        seed=CONFIG.seed,
        code=code_of_step("explore_walkers"),
    message:
        "iter_{wildcards.iteration} explore_walkers: walker {wildcards.walker}"
    script:
        "../../scripts/explore_walkers.py"


rule score_frames:
    input:
        walkers=collect("results/{{system}}/iter_{{iteration}}/explore_walkers/walker_{walker}.nc", walker=walkers),
        potential=multiext("results/{system}/iter_{iteration}/train_committee/potential", ".json", ".safetensors"),
        usual="results/{system}/iter_{iteration}/train_committee/training.json",
        dataset=multiext(
            "results/{system}/iter_{iteration}/collect_dataset/", "train.extxyz", "valid.extxyz", "test.extxyz"
        ),
        asked=collect("results/{{system}}/iter_{i}/select_candidates/candidates.extxyz", i=iterations_before),
    output:
        frames="results/{system}/iter_{iteration}/score_frames/frames.nc",
        environments="results/{system}/iter_{iteration}/score_frames/environments.nc",
    log:
        "results/{system}/logs/iter_{iteration}/score_frames.log",
    benchmark:
        "results/{system}/iter_{iteration}/benchmarks/score_frames.tsv"
    conda:
        POTENTIAL_ENVIRONMENT
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(60),
    params:
        seed=CONFIG.seed,
        max_atoms=most_atoms,
        carving=carving_settings,
        code=code_of_step("score_frames"),
    message:
        "iter_{wildcards.iteration} score_frames: uncertainty and novelty of every frame"
    script:
        "../../scripts/score_frames.py"


rule select_candidates:
    input:
        frames="results/{system}/iter_{iteration}/score_frames/frames.nc",
        environments="results/{system}/iter_{iteration}/score_frames/environments.nc",
        walkers=collect("results/{{system}}/iter_{{iteration}}/explore_walkers/walker_{walker}.nc", walker=walkers),
    output:
        candidates="results/{system}/iter_{iteration}/select_candidates/candidates.extxyz",
        decisions="results/{system}/iter_{iteration}/select_candidates/decisions.csv",
    log:
        "results/{system}/logs/iter_{iteration}/select_candidates.log",
    benchmark:
        "results/{system}/iter_{iteration}/benchmarks/select_candidates.tsv"
    conda:
        "../../envs/mlip.yaml"
    params:
        settings=section("select"),
        guards=guards_in_force,
        seed=CONFIG.seed,
        code=code_of_step("select_candidates"),
    message:
        "iter_{wildcards.iteration} select_candidates: choose what the next iteration labels"
    script:
        "../../scripts/select_candidates.py"
