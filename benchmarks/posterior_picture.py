"""The README's first picture: which pixels of Fashion-MNIST the 2 % posterior of LeNet-300-100 keeps weights of.

    python -m benchmarks.posterior_picture

It takes the fit that benchmarks/posterior.py has kept (seed 0 at 2 %), and makes it where there is none: two minutes.
Writes docs/images/inclusion.png, and prints the figures of its caption: what the number of weights that a pixel keeps
(the sum of the probabilities of its 300) goes with in the images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

import bayesprune as bp
from bayesprune.analysis.plots.style import SEQUENTIAL, finished, line_look, new_figure, styled
from bayesprune.models.language.inclusion import is_undecided
from benchmarks.posterior import RECIPES
from benchmarks.posterior_recipe import declared, fitted, lenet, shortened

DENSITY, SIDE = 0.02, 28
BINS = 25
EDGE = 4
"""Width of the border of the images that is reported apart."""


def the_fit(folder: Path, splits: Any, epochs: int) -> bp.Fit:
    """The fit that is kept, or a new one in its place; `epochs` as benchmarks.posterior has them, with the refit's."""
    recipe = shortened(RECIPES[DENSITY], epochs)
    if not folder.exists():
        fitted(recipe, lenet(0), splits.train, 0).save(folder)
    return bp.Fit.load(folder, declared(recipe, lenet(0), len(splits.train[0])))


def images_of(x: torch.Tensor, y: torch.Tensor) -> dict[str, np.ndarray]:
    """What the training images are like, pixel by pixel, `(28, 28)` each."""
    pixels = x.flatten(1).double().numpy()
    means = np.stack([pixels[y.numpy() == one].mean(axis=0) for one in range(10)])
    found = {"mean image": pixels.mean(axis=0), "within": pixels.std(axis=0), "between": means.std(axis=0)}
    return {name: values.reshape(SIDE, SIDE) for name, values in found.items()}


def told(kept: np.ndarray, images: dict[str, np.ndarray], probabilities: dict[str, np.ndarray]) -> None:
    """Prints the figures of the caption."""
    everything = np.concatenate([values.ravel() for values in probabilities.values()])
    undecided = is_undecided(everything).mean()
    open_ = (everything > 0.5).mean()
    print(f"kept (probability above 1/2) {100 * open_:.2f} %, undecided {100 * undecided:.1f} %")
    for name, values in probabilities.items():
        share = is_undecided(values).mean()
        print(f"{name}: {(values > 0.5).sum():,} of {values.size:,} kept, {100 * share:.1f} % undecided")
    print(f"expected weights a pixel: {kept.min():.2f} to {kept.max():.2f}, mean {kept.mean():.2f} of 300")
    inner = np.zeros_like(kept, dtype=bool)
    inner[EDGE:-EDGE, EDGE:-EDGE] = True
    print(f"mean inside {kept[inner].mean():.2f}, in the border of {EDGE} pixels {kept[~inner].mean():.2f}")
    ranked = np.sort(kept.ravel())[::-1]
    print(
        f"half of the expected weights are on {100 * (np.cumsum(ranked) < ranked.sum() / 2).mean():.0f} % of the pixels"
    )
    for name, image in images.items():
        correlation = stats.spearmanr(kept.ravel(), image.ravel()).statistic
        print(f"rank correlation over pixels with {name}: {correlation:.2f}")


def picture(kept: np.ndarray, images: dict[str, np.ndarray], probabilities: dict[str, np.ndarray], path: Path) -> None:
    """Draws the figure."""
    everything = np.concatenate([values.ravel() for values in probabilities.values()])
    undecided = is_undecided(everything).mean()
    shown = [
        ("mean image", images["mean image"]),
        ("standard deviation of each pixel", images["within"]),
        ("expected weights kept of its 300", kept),
    ]
    title = f"Fashion-MNIST, and where a network of {100 * DENSITY:g} % of its weights looks"
    with styled():
        figure, axes = new_figure(1, 4, title, (3.0, 2.6))
        for axis, (name, image) in zip(axes, shown, strict=False):
            drawn = axis.imshow(image, cmap=SEQUENTIAL if image is kept else "gray", interpolation="nearest")
            axis.set_title(name)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if name != "mean image":
                figure.colorbar(drawn, ax=axis, shrink=0.65)
        edges = np.linspace(0.0, 1.0, BINS + 1)
        for number, (name, values) in enumerate(probabilities.items()):
            counts, _ = np.histogram(values, edges)
            shares = np.append(counts, counts[-1]) / values.size
            layer = name.removesuffix(".weight")
            axes[3].step(edges, shares, where="post", label=layer, **line_look(number))
        axes[3].set_yscale("log")
        axes[3].set_xlim(0.0, 1.0)
        axes[3].set_xlabel("inclusion probability of a weight")
        axes[3].set_ylabel("share of the layer's weights")
        axes[3].set_title(f"{undecided:.0%} of the probabilities undecided")
        axes[3].legend(loc="upper center", ncols=len(probabilities), columnspacing=0.8, handlelength=1.2)
        finished(figure, path)


def main() -> None:
    """Draws the picture and prints its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=Path, default=Path("runs", "benchmarks", "posterior_fit_2_percent"))
    parser.add_argument("--epochs", type=int, default=20, help="of a new fit, as benchmarks.posterior counts them")
    parser.add_argument("--picture", type=Path, default=Path("docs", "images", "inclusion.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = bp.load_data("fashion-mnist")
    fit = the_fit(options.fit, splits, options.epochs)
    found = fit.inclusion_probabilities()
    probabilities = {str(name): found[name].values for name in found.data_vars}
    kept = probabilities["fc1.weight"].sum(axis=0).reshape(SIDE, SIDE)
    images = images_of(*splits.train)
    told(kept, images, probabilities)
    picture(kept, images, probabilities, options.picture)
    print(f"{options.picture}: {options.picture.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
