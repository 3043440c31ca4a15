# One driver per system, and one configuration per run; no rule is defined here.
from contextlib import contextmanager

from snakemake.logging import logger

from mlip.io.files import explain_os_error
from mlip.jobs.lease import DriverRunning, freeze, hold
from mlip.jobs.snakemake_internals import guard_execution, make_executor_patient


@contextmanager
def run_alone(execution):
    """Before anything is planned, no other driver and no job of a dead one is at work."""
    try:
        with hold(CONFIG.system, execution.executor, execution.latency, logger.warning):
            # Jobs read this copy: an edit of the file while the loop runs counts from the next start.
            execution.give_jobs(freeze(CONFIG.system, config))
            if execution.executor == "slurm":
                make_executor_patient()
            yield
    except DriverRunning as error:
        raise WorkflowError(str(error)) from None
    except OSError as error:  # a folder that cannot be written, a full disk
        raise WorkflowError(explain_os_error(error)) from None


guard_execution(workflow, run_alone)
