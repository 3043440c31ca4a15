"""``python -m mlip``: what torchrun and machines without the ``mlip`` script start."""

from mlip.cli.app import app

app()
