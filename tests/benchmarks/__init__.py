"""Speed ratios, measured side by side: `python -m tests.benchmarks` runs all, `make benchmark` calls that."""
