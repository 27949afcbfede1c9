"""Train the winner of a run to be used, and hand it over: `python train_winner.py RUN [DATA] [EPOCHS] [OUT]`."""

import sys

import nas
from nas.export import export


def main(run: str, data: str = "fashion-mnist-subset", epochs: str = "4", out: str = "results/trained") -> None:
    """Train, then export and print each check."""
    result = nas.train_network(nas.load_arch(run), data=data, epochs=int(epochs), out=out, device="cpu")
    print(result.val_accuracy, result.val_error)
    for check in export(str(result.run.folder), ["torch"]).checks:
        print(check)


if __name__ == "__main__":
    main(*sys.argv[1:])
