"""Training of the three models, run from a clone: ``python -m train VERB --help``; README.md tells
how.

    config.py         recipes of the stages: the paper's, pocket's, the ablations
    data/             BDD100K's layout -> memory-mapped frames, actions, ids
    losses.py, discriminator.py     eq. 2-8
    convnets.py, teacher.py         networks of the perceptual loss and of the distillation
    external.py       network files that the user supplies, hash-checked
    tokenizer.py, world_model.py, video_decoder.py   the three stages
    carry_over.py                   weights that go on with another tokenizer's ids
    sequences.py, lora.py           what the world model is trained on; its adapters (PEFT)
    loop.py           one loop for every stage; with optim, parallel, checkpoint, report
    estimate.py, plan_run.py        what a run will cost
    build.py, stages.py, pack.py    from a command line to a run, and to a weights folder
    metrics/          PSNR, SSIM, MS-SSIM, LPIPS, FID, CMMD, FVD
    evaluate.py, rollouts.py        figures of a preset on held-out drives
    protocol.py, paper.py, tables.py   the paper's evaluation beside its tables
"""
