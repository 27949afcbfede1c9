"""Read a run and rank its networks by another taste, without training: `python read_run.py RUN`."""

import sys
from dataclasses import replace

import nas
from nas.report import rerank


def main(folder: str) -> None:
    """Print the trials and the new order."""
    run = nas.load_run(folder)
    print(run.trials.head().to_string())
    print(rerank(run, replace(run.reward, w=-0.03)).table.to_string())


if __name__ == "__main__":
    main(*sys.argv[1:])
