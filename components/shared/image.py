"""The images that components run in: an environment fact, read when the pipeline is compiled.

Unnamed they are of nobody: on a laptop a task is a process and none is pulled, and a server is sent none of these
(pipelines/cluster.py). Kubeflow's local runner takes an image whose name has no "python" in it for one without Python.
"""

import os

UNNAMED = "unnamed.invalid"
TRAIN = os.environ.get("HETERREC_TRAIN_IMAGE", f"{UNNAMED}/heterrec-train-python")
SERVE = os.environ.get("HETERREC_SERVE_IMAGE", f"{UNNAMED}/heterrec-serve-python")
