"""The benchmarks of `lab bench`: attention kernels on this machine."""
