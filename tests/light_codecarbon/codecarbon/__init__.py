"""What estimates the CPU where the GPU is what a test is about? CodeCarbon's own model, but light.

The real CodeCarbon takes two CPU seconds for each start of a daemon, for pandas and its table of processors.
Here are the names that `energyd.sources.codecarbon_child` uses of it, with one processor of 100 W. The
real one is tested in tests/daemon/sources/test_codecarbon.py, test_release.py and test_measured_run.py.
"""
