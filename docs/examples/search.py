"""Search a space and build the winner: `python search.py [SPACE] [DATA] [RECIPE] [BUDGET] [OUT]`."""

import sys

import nas


def main(
    space: str = "v2_tiny",
    data: str = "fashion-mnist-subset",
    recipe: str = "quick",
    budget: str = "4",
    out: str = "results/example",
) -> None:
    """Search, then print where the run is and how large its winner is."""
    result = nas.search(space=space, data=data, recipe=recipe, budget=int(budget), out=out, devices="cpu")
    network = nas.build(result.winner)
    print(result.run.folder, sum(weights.numel() for weights in network.parameters()))


if __name__ == "__main__":
    main(*sys.argv[1:])
