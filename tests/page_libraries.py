"""What nearly every notebook loads: the process that is forked for each of them has imported this one.

Libraries, and what the shell of a notebook and its figures look up when they start: together half a second of each page.
"""

import os

import execnb.shell
import IPython.core.history
import IPython.core.magics.execution
import lightgbm
import matplotlib.pyplot
import matplotlib_inline.backend_inline
import nbdev.test
import pandas
import scipy.signal
import sklearn.ensemble
import torch._dynamo
import torch.distributed.checkpoint
from matplotlib.backends.registry import backend_registry

backend_registry.list_all()  # reads the entry points of all installed packages

if rest := os.environ.pop("PYTHONPATH", "").split(os.pathsep)[1:]:  # the first is this folder, for this import alone
    os.environ["PYTHONPATH"] = os.pathsep.join(rest)
