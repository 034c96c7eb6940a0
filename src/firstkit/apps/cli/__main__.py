# SPDX-License-Identifier: Apache-2.0
"""`python -m firstkit.apps.cli`: the same as `first`."""

from firstkit.apps.cli import main

if __name__ == "__main__":
    main()
