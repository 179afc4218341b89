"""A training in several processes: torchrun starts them, and all of them again where one ends.

    torchrun … -m flows.processes [JOB]

is one process. The first reads what to train from the file JOB and tells the others, so that those on other machines
need none. It tells whoever started it about epochs, the result or an error by lines of JSON on standard output.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.machine import threads, use_threads
from pipeline.system import large_tensors_kept
from schemas.errors import UserError
from schemas.training import CM3Config, TrainingJob, TrainingResult, TrainingTables

if TYPE_CHECKING:  # torch: the process that only starts others does without
    from trainers.fit import OnEpoch

logger = logging.getLogger(__name__)

MODULE = "flows.processes"
RESTARTS = 3
"""How often all processes are started again after one of them ended, e.g. for lack of memory."""


def run(
    *,
    tables: TrainingTables,
    output: Path,
    config: CM3Config,
    never_shown: Collection[str],
    checkpoint: Path,
    on_epoch: "OnEpoch",
) -> TrainingResult:
    """`trainers.cm3.run` in `config.processes` processes; the arguments are the same.

    torchrun's own settings apply: with PET_NNODES and the other variables of the kind this machine is the first of
    several, and starts its part of the processes.
    """
    job = TrainingJob(
        tables=tables, output=str(output), config=config, never_shown=tuple(never_shown), checkpoint=str(checkpoint)
    )
    file = output / "job.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(job.model_dump_json())
    machines = int(os.environ.get("PET_NNODES", "1"))
    here = config.processes // machines
    if here * machines != config.processes:
        raise UserError(
            f"processes: expected a multiple of the {machines} machines (PET_NNODES), found {config.processes}. Every "
            "machine starts the same number."
        )
    options = ["--nproc-per-node", str(here), "--max-restarts", str(RESTARTS), "--log-dir", str(output / "torchrun")]
    if machines == 1:
        options.append("--standalone")  # a free port
    share = str(max(1, threads() // here))
    torchrun = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options, "-m", MODULE, str(file)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"CM3_THREADS": share, "OMP_NUM_THREADS": share},
    )
    try:
        return _heard(torchrun, on_epoch)
    except BaseException:
        torchrun.terminate()  # and it ends the others
        raise
    finally:
        torchrun.wait()


def _heard(torchrun: "subprocess.Popen[str]", on_epoch: "OnEpoch") -> TrainingResult:
    assert torchrun.stdout is not None
    result = None
    for line in torchrun.stdout:
        match _message(line):
            case {"epoch": epoch, "terms": terms}:
                on_epoch(epoch, terms)
            case {"error": error}:
                raise UserError(error)
            case {"result": fields}:
                result = TrainingResult.model_validate(fields)
            case _:
                logger.info("training: %s", line.rstrip())
    if result is not None:
        return result
    raise UserError(
        f"processes: one of them ended before the training did, {RESTARTS + 1} times; torchrun says which and why, in "
        "the log above (exit code -9: the system needed its memory). Run again: training goes on from the last epoch "
        "that all have saved."
    )


def _message(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _tell(**message: Any) -> None:
    try:
        print(json.dumps(message), flush=True)
    except BrokenPipeError:  # whoever started the training is gone
        os.kill(os.getppid(), signal.SIGTERM)
        raise


def main(file: str | None) -> None:
    """One of the processes, from the first exchange to the last."""
    from trainers.cm3 import train
    from trainers.processes import Processes

    use_threads()
    try:
        processes = Processes.join()
        job = TrainingJob.model_validate_json(processes.first(lambda: _told(file)))
        if processes.count != job.config.processes:
            raise UserError(
                f"processes: expected {job.config.processes} as the training was asked for, found {processes.count}. "
                "Start torchrun on every machine with the same --nproc-per-node."
            )
        checkpoint = Path(job.checkpoint)
        with large_tensors_kept():
            if not processes.leads:
                train.follow(tables=job.tables, config=job.config, checkpoint=checkpoint, processes=processes)
                return
            result = train.run(
                tables=job.tables,
                output=Path(job.output),
                config=job.config,
                never_shown=job.never_shown,
                checkpoint=checkpoint,
                on_epoch=lambda epoch, terms: _tell(epoch=epoch, terms=terms),
                processes=processes,
            )
        _tell(result=result.model_dump(mode="json"))
    except UserError as error:
        _tell(error=str(error))
        raise SystemExit(1) from error


def _told(file: str | None) -> str:
    if file is None:
        raise UserError("processes: the first one needs the file that says what to train. Start it by a run of cm3.")
    return Path(file).read_text()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
