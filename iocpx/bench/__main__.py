"""`python3 -m bench`, in this folder's parent: run.py, where iocpx cannot be imported."""

import sys

from .run import main

sys.exit(main())
