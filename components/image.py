"""The images that components run in: an environment fact, read when the pipeline is compiled."""

import os

TRAIN = os.environ.get("HETERREC_TRAIN_IMAGE", "ghcr.io/heterrec/heterrec-train-python:0.1.0")
SERVE = os.environ.get("HETERREC_SERVE_IMAGE", "ghcr.io/heterrec/heterrec-serve-python:0.1.0")
