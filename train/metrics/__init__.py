"""Metrics of images and videos with the field's standard definitions.

    pixels.py      PSNR, SSIM, MS-SSIM (torchmetrics)
    distances.py   Frechet distance and MMD of feature vectors: the mathematics, without networks
    lpips.py       LPIPS on the user's AlexNet or VGG16
    inception.py   the FID Inception network, laid out as pytorch-fid's file
    features.py    feature extractors of FID, CMMD and FVD on the user's files
    suite.py       which metrics can be computed here, and all of them on pairs of videos

A metric whose network file is missing is refused by name, never approximated under its name.
"""
