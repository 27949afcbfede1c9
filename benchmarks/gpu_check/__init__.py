"""Everything that needs a GPU, in sections: `python -m benchmarks.gpu_check`; see `benchmarks.gpu_check.__main__`."""
