"""Starts the processes of a run on this machine and watches them, by torch's elastic launcher, as `torchrun` does.

Input: how many, how often they may be started anew after one of them was lost, and the arguments of `cdrmix train`.
Output: an exit code.  The processes say themselves what goes wrong in them.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from cdrmix.diagnose import UserError

PATIENCE = 24 * 3600
"""Seconds after a Ctrl-C for the step in hand to be finished and saved; a second Ctrl-C ends it at once."""


def launch(processes: int, restarts: int, arguments: Sequence[str]) -> int:
    """Run `python -m cdrmix.train ARGUMENTS` in so many processes until all are through."""
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # else a restart hangs (pytorch#135712)
    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=restarts,
            local_addr="localhost",
            shutdown_timeout=PATIENCE,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "cdrmix.train", *arguments)
        except SignalException as e:
            return 128 + e.sigval
        except ChildFailedError as e:
            _, first = e.get_first_failure()
            if first.exitcode >= 0:  # it has said why
                return int(first.exitcode)
            raise UserError(
                f"process {first.local_rank} was ended by {signal.Signals(-first.exitcode).name}",
                "--resume goes on from the last checkpoint; --restarts N does so by itself, N times",
            ) from e
    return 0
