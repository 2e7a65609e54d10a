"""Python runs this file at its start where its folder is on PYTHONPATH: a stock command imports nnU-Net only once.

nnU-Net starts its workers by "spawn", and each imports PyTorch and nnU-Net anew, which takes several seconds; the few
small cases of a test take far less. Here the command's process imports what its script imports at its top, forks
Python's own fork server before it has done anything else, and workers are forked from that. What a worker is sent stays
as it is.
"""

import contextlib
import importlib
import multiprocessing.context
import os
import sys
from collections.abc import Sequence

_IMPORTS = {
    "nnUNetv2_train": "nnunetv2.run.run_training",
    "nnUNetv2_predict": "nnunetv2.inference.predict_from_raw_data",
    "nnUNetv2_predict_from_modelfolder": "nnunetv2.inference.predict_from_raw_data",
    "nnUNetv2_plan_and_preprocess": "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints",
    "nnUNetv2_preprocess": "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints",
    "nnUNetv2_find_best_configuration": "nnunetv2.evaluation.find_best_configuration",
    "nnUNetv2_evaluate_folder": "nnunetv2.evaluation.evaluate_predictions",
    "nnunet-attn predict": "nnunetv2.inference.predict_from_raw_data",
}


def _fork_workers_from_here() -> None:
    """Start Python's fork server by a fork of this process, not as a new Python, and let "spawn" mean it."""
    from multiprocessing import forkserver, resource_tracker, util

    start = util.spawnv_passfds

    def fork(path: bytes, arguments: Sequence[str], passed: Sequence[int]) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            for name in os.listdir("/proc/self/fd"):
                if int(name) > 2 and int(name) not in passed:
                    with contextlib.suppress(OSError):  # that of the listing itself
                        os.close(int(name))
            vars(forkserver)["_forkserver"].__init__()  # its lock is held here for ever
            exec(arguments[-1], {})  # "from multiprocessing.forkserver import main; main(...)", as after `python -c`
        finally:
            os._exit(0)

    resource_tracker.ensure_running()
    util.spawnv_passfds = fork
    try:
        forkserver.set_forkserver_preload([])
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = start
    # the dictionary that multiprocessing.get_context("spawn") reads
    contexts = vars(multiprocessing.context)["_concrete_contexts"]
    contexts["spawn"] = contexts["forkserver"]


_script = os.path.basename(sys.orig_argv[1]) if len(sys.orig_argv) > 2 else ""
_wanted = _IMPORTS.get(f"nnunet-attn {sys.orig_argv[2]}" if _script == "nnunet-attn" else _script)
if _wanted is not None and sys.platform == "linux":
    importlib.import_module(_wanted)
    _fork_workers_from_here()
