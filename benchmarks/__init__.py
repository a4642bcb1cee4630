"""Studies that take longer than tests: run them as `python -m benchmarks.<name>` from the root of a checkout."""
