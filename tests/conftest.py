"""Settings for all tests. Fixtures belong to the directory that uses them."""

from hypothesis import settings

# No deadline: a busy machine is not a bug. The blob lets a failure be replayed elsewhere.
settings.register_profile("clawnet", deadline=None, print_blob=True)
settings.load_profile("clawnet")
