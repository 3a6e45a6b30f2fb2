"""Training: from a recipe and shard sets to a published run.

train.py          train(): resolve the recipe, open the data, train, publish a version
builders.py       the batches and the Trainer of a setup, with its model
trainer.py        Trainer: model, EMA, optimizer, loss scale and step; the training step
options.py        TrainOptions and SelfTrainOptions: what a caller chooses besides recipe and data
preflight.py      refuse what cannot be trained, before PyTorch is imported
interrupted.py    which run may resume an interrupted one, by its fingerprint
selftrain.py      selftrain(): a run labels boxes, the next run learns from its masks, in rounds
selftrain_plan.py check its inputs before PyTorch is imported, and pin their versions
selftrain_state.py  its record, selftrain.json, from which it resumes
held_out.py       images that no round of it trains on, whose masks score the rounds
setup.py          TrainingSetup and Dataset; opens data sets, resolves what a recipe leaves open
run_plan.py       --plan: pace through each set, and what is missing
memory.py         estimate the memory of a step on tensors without content
unit_costs.py     what a crop, a box or an image costs, for plans and docs/scaling.md
optimizer.py      AdamW's parameter groups, learning rate schedule, EMA, optimizer state by name
sharding.py       FSDP2: shard a model, gather its full state
checkpoint.py     write and read checkpoints, from which --resume continues
evaluation.py     metrics and pictures of the evaluation sets
logging.py        StepRecord, RunLog (metrics.jsonl, TensorBoard)
loggers.py        Weights & Biases and MLflow, whose errors end no training
publish_run.py    write the files of a run
"""
