"""What do tests of faults share? The daemons of the end-to-end tests."""

from end_to_end.conftest import daemon, make_daemon  # noqa: F401 (fixtures)
