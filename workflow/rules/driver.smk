# One driver per system, and one configuration per run; no rule is defined here.
from snakemake.logging import logger

from mlip.io.files import explain_os_error
from mlip.jobs.lease import DriverRunning, freeze, hold
from mlip.jobs.slurm.submission import make_executor_patient


def run_alone(execute):
    """Snakemake's ``execute``, guarded: before it plans, no other driver and no job of a dead one is at work."""

    def execute_alone(executor_plugin, *args, **kwargs):
        settings = executor_plugin.common_settings
        if settings.dryrun_exec or settings.touch_exec or not workflow.execution_settings.lock:
            return execute(executor_plugin, *args, **kwargs)
        try:
            latency = workflow.execution_settings.latency_wait
            with hold(CONFIG.system, executor_plugin.name, latency, logger.warning):
                # Jobs read this copy: an edit of the file while the loop runs counts from the next start.
                workflow.config_settings.configfiles = [freeze(CONFIG.system, config)]
                if executor_plugin.name == "slurm":
                    make_executor_patient()
                return execute(executor_plugin, *args, **kwargs)
        except DriverRunning as error:
            raise WorkflowError(str(error)) from None
        except OSError as error:  # a folder that cannot be written, a full disk
            raise WorkflowError(explain_os_error(error)) from None

    return execute_alone


# Not in jobs, which Snakemake runs by calling itself.
if workflow.is_main_process:
    workflow.execute = run_alone(workflow.execute)
