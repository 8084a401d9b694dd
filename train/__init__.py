"""Training of the three models, run from a clone: ``python -m train VERB --help``.

    data.py           recorded drives (BDD100K's layout) -> memory-mapped frames, actions, ids
    loop.py           one training loop: schedule, EMA, checkpoints that resume, progress, JSON log
    losses.py         reconstruction losses (eq. 2-4 without the networks a user must bring)
    discriminator.py  patch discriminator and hinge losses (eq. 6-7)
    tokenizer.py      stage 1: VQModel on single frames
    world_model.py    stage 2: next-token prediction on ids with actions
    video_decoder.py  stage 3: three-frame decoder from the inflated image decoder
    evaluate.py       held-out figures: reconstruction, next frame against copying, steering
    pack.py           checkpoints -> the preset's weights folder with its manifest

A first version, enough to train the `pocket` preset from drives recorded by ``python -m bridge
record``. The paper's full stages (64-patch GAN, distillation, LoRA, many GPUs) are not here yet.
"""
