"""The figures and tables of the seed documents again, on handwritten digits: `python -m benchmarks.seeds`."""
