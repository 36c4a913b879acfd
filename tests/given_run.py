"""A run some of whose tables a test makes by hand; the others are computed from them."""

from __future__ import annotations

from fgvr.tables import Table
from pipelines.run_tables import Run


class GivenRun(Run):
    """Tables come from methods of their names with `given_` before them, where there is one."""

    def table(self, name: str) -> Table:
        """The table: made by hand, found, or computed."""
        make = getattr(self, f"given_{name}", None)
        if make is not None and name not in self.tables:
            self.tables[name] = make()
        return super().table(name)
