"""Where a fit runs: one process or many, which device, which random numbers."""
