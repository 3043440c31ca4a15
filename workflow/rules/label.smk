localrules:
    prepare_structures,
    collect_dataset,


rule prepare_structures:
    input:
        structures=STRUCTURE_FILES,
        phases=[source.file for source in CONFIG.prepare.phases if source.file],
    output:
        candidates="results/{system}/iter_00/prepare_structures/candidates.extxyz",
    log:
        "results/{system}/logs/iter_00/prepare_structures.log",
    benchmark:
        "results/{system}/iter_00/benchmarks/prepare_structures.tsv"
    conda:
        "../../envs/mlip.yaml"
    params:
        settings=section("prepare"),
        min_ratio=CONFIG.label.guards.min_distance_factor,
        sources=STARTING_STRUCTURES,
        demands=demands_of_walkers,
        compressed=CONFIG.assess.eos_structures if CONFIG.assess.eos_volumes else (),
        seed=CONFIG.seed,
        code=code_of_step("prepare_structures"),
    message:
        "iter_00 prepare_structures: perturb the starting structures"
    script:
        "../../scripts/prepare_structures.py"


rule label_references:
    input:
        structures=STRUCTURE_FILES,
        # Here and below: existing data that do not fit stop the run before a label is paid for.
        checked=ancient(DATA_CHECKED),
    output:
        structures="results/{system}/label_references/references.extxyz",
    log:
        "results/{system}/logs/label_references.log",
    benchmark:
        "results/{system}/label_references/benchmark.tsv"
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        settings=label_settings,
        sources={number: STARTING_STRUCTURES[number] for number in CONFIG.assess.eos_structures},
        volumes=CONFIG.assess.eos_volumes,
        stress_agreement=CONFIG.label.stress_agreement,
        code=code_of_step("label_references"),
    message:
        "label_references: equation of state"
    script:
        "../../scripts/label_references.py"


rule label_isolated_atoms:
    input:
        structures=STRUCTURE_FILES,
        data=DATA_STRUCTURES,
        checked=ancient(DATA_CHECKED),
    output:
        isolated="results/{system}/label_references/isolated_atoms.json",
    log:
        "results/{system}/logs/label_isolated_atoms.log",
    benchmark:
        "results/{system}/label_references/benchmark_isolated_atoms.tsv"
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        settings=isolated_settings,
        sources=STARTING_STRUCTURES,
        code=code_of_step("label_isolated_atoms"),
    message:
        "label_isolated_atoms: energies of isolated atoms"
    script:
        "../../scripts/label_isolated_atoms.py"


rule label_structures:
    input:
        candidates=branch(
            is_first_iteration,
            then="results/{system}/iter_00/prepare_structures/candidates.extxyz",
            otherwise=collect("results/{{system}}/iter_{i}/select_candidates/candidates.extxyz", i=iteration_before),
        ),
        # ancient: new convergence targets are no reason to label again.
        unfinished=ancient(collect("results/{{system}}/iter_{i}/assess_potential/assessment.json", i=iteration_before)),
        data=ancient(collect("results/{{system}}/iter_{i}/import_data/data.json", i=imported)),
        comparison=ancient(collect("results/{{system}}/iter_{i}/relabel_data/comparison.json", i=compared)),
    output:
        structures="results/{system}/iter_{iteration}/label_structures/shard_{shard}.extxyz",
        records="results/{system}/iter_{iteration}/label_structures/shard_{shard}.json",
    log:
        "results/{system}/logs/iter_{iteration}/label_structures-{shard}.log",
    benchmark:
        "results/{system}/iter_{iteration}/benchmarks/label_structures-{shard}.tsv"
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        settings=shard_settings,
        code=code_of_step("label_structures"),
    message:
        "iter_{wildcards.iteration} label_structures: shard {wildcards.shard}"
    script:
        "../../scripts/label_structures.py"


rule collect_dataset:
    input:
        shards=collect("results/{{system}}/iter_{{iteration}}/label_structures/shard_{shard}.extxyz", shard=shards),
        records=collect("results/{{system}}/iter_{{iteration}}/label_structures/shard_{shard}.json", shard=shards),
        previous=collect("results/{{system}}/iter_{i}/collect_dataset/{file}", i=iteration_before, file=DATA_CARRIED_ON),
        data=collect("results/{{system}}/iter_{i}/import_data/data.extxyz", i=imported),
        data_records=collect("results/{{system}}/iter_{i}/import_data/data.json", i=imported),
        comparison=collect("results/{{system}}/iter_{i}/relabel_data/comparison.json", i=compared),
    output:
        train="results/{system}/iter_{iteration}/collect_dataset/train.extxyz",
        valid="results/{system}/iter_{iteration}/collect_dataset/valid.extxyz",
        test="results/{system}/iter_{iteration}/collect_dataset/test.extxyz",
        new="results/{system}/iter_{iteration}/collect_dataset/new.extxyz",
        summary="results/{system}/iter_{iteration}/collect_dataset/dataset.json",
    log:
        "results/{system}/logs/iter_{iteration}/collect_dataset.log",
    benchmark:
        "results/{system}/iter_{iteration}/benchmarks/collect_dataset.tsv"
    conda:
        "../../envs/mlip.yaml"
    params:
        settings=section("collect"),
        screens=collect_screens,
        code=code_of_step("collect_dataset"),
    message:
        "iter_{wildcards.iteration} collect_dataset: join, screen and split the labels"
    script:
        "../../scripts/collect_dataset.py"
