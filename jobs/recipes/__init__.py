"""Recipes: functions that return a complete configuration. These tables are all there are."""

from jobs.recipes import datasets, dspfusion, evaluation

DATASETS = {"small": datasets.small, "paper": datasets.paper}

TRAINING = {
    "dspfusion_stage1_demo": dspfusion.stage1_demo,
    "dspfusion_stage2_demo": dspfusion.stage2_demo,
    "dspfusion_stage1_small": dspfusion.stage1_small,
    "dspfusion_stage2_small_prior": dspfusion.stage2_small_prior,
    "dspfusion_stage2_small": dspfusion.stage2_small,
    "dspfusion_stage1_full_1gpu": dspfusion.stage1_full_1gpu,
    "dspfusion_stage2_full_1gpu": dspfusion.stage2_full_1gpu,
    "dspfusion_stage1_code_1gpu": dspfusion.stage1_code_1gpu,
    "dspfusion_stage2_code_1gpu": dspfusion.stage2_code_1gpu,
    "dspfusion_stage1_code_8gpu": dspfusion.stage1_code_8gpu,
    "dspfusion_stage2_code_8gpu": dspfusion.stage2_code_8gpu,
    "dspfusion_stage1_paper_1gpu": dspfusion.stage1_paper_1gpu,
    "dspfusion_stage2_paper_1gpu": dspfusion.stage2_paper_1gpu,
    "dspfusion_stage1_paper_8gpu": dspfusion.stage1_paper_8gpu,
    "dspfusion_stage2_paper_8gpu": dspfusion.stage2_paper_8gpu,
    "dspfusion_stage1_small_no_degradation": dspfusion.stage1_small_no_degradation,
    "dspfusion_stage2_small_no_degradation": dspfusion.stage2_small_no_degradation,
    "dspfusion_stage1_small_no_semantic": dspfusion.stage1_small_no_semantic,
    "dspfusion_stage1_paper_no_degradation_1gpu": dspfusion.stage1_paper_no_degradation_1gpu,
    "dspfusion_stage2_paper_no_degradation_1gpu": dspfusion.stage2_paper_no_degradation_1gpu,
    "dspfusion_stage1_paper_no_semantic_1gpu": dspfusion.stage1_paper_no_semantic_1gpu,
}

EVALUATION = {
    "singles": evaluation.singles,
    "all": evaluation.all_scenarios,
    "severities": evaluation.severities,
}
PROMOTION = {"default": evaluation.default_gate}
