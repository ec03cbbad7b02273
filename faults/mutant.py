"""The application that gunicorn serves as `faults.mutant:app`: with the bug that MUTATION names."""

import os

from faults.mutations import MUTATIONS
from projectapp import create_app

MUTATIONS[os.environ["MUTATION"]]()
app = create_app()
