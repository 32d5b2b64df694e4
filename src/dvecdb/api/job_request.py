"""What `POST /jobs` takes: a job, with the fields of its TOML, and how it is to be run."""

from __future__ import annotations

import msgspec

from dvecdb.embedding.job import Job


class JobRequest(Job, frozen=True, forbid_unknown_fields=True):
    """A job to run. Rerunning it embeds what is new or has changed.

    `full`: look at every row, however old its `changed_since`, from the start. `only_failed`: try
    just the dead letters once more.
    """

    full: bool = False
    only_failed: bool = False

    def job(self) -> Job:
        """Return the job itself."""
        return Job(**{item.name: getattr(self, item.name) for item in msgspec.structs.fields(Job)})
