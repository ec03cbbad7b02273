"""What gunicorn serves as `faults.seeded:app`: the product with the bug that SEEDED_BUG names."""

import os

from faults.bugs import BUGS
from projectapp import create_app

BUGS[os.environ["SEEDED_BUG"]]()
app = create_app()
