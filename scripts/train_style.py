"""Train the head that tells drawn pictures from photographs, from labelled vectors or folders.

A logistic regression on the 1,024 pooled features of open_nsfw, brought to length 1. Writes what
`worker.model.style` reads, with its metrics measured on pictures held out.

    python scripts/train_style.py                                    # from the shipped vectors
    python scripts/train_style.py --drawn mine/art --photos mine/photos --output style_head.json
"""

from __future__ import annotations

import base64
import datetime
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from worker.model.style import DEFAULT_HEAD, FeatureExtractor, model_sha256, normalised

VECTORS = Path(__file__).parent / "data" / "style_features.npz"

#: Inverse strength of the regularisation; the held-out AUC on the shipped vectors is highest here.
REGULARISATION = 10.0

#: Parts of the pictures that are held out in turn; fewer where there are fewer pictures.
FOLDS = 5

Floats = npt.NDArray[np.float64]


@click.command()
@click.option(
    "--vectors",
    type=click.Path(exists=True, path_type=Path),
    default=VECTORS,
    show_default=True,
    help="npz with features (N, 1024), is_art (N,) and source (N,).",
)
@click.option("--drawn", type=click.Path(exists=True, path_type=Path), help="Folder of drawings.")
@click.option("--photos", type=click.Path(exists=True, path_type=Path), help="Folder of photos.")
@click.option("--only-folders", is_flag=True, help="Leave the vectors out.")
@click.option("--seed", default=0, show_default=True, help="Which half is held out.")
@click.option("--output", type=click.Path(path_type=Path), default=DEFAULT_HEAD, show_default=True)
def main(
    vectors: Path,
    drawn: Path | None,
    photos: Path | None,
    only_folders: bool,
    seed: int,
    output: Path,
) -> None:
    """Train and write the style head; prints its metrics."""
    parts = [] if only_folders else [read_vectors(vectors)]
    for folder, label in ((drawn, 1), (photos, 0)):
        if folder is not None:
            parts.append(read_folder(folder, label))
    if {label for _, labels, _ in parts for label in labels.tolist()} != {0, 1}:
        raise click.UsageError("both drawings and photos are needed: give --drawn and --photos")
    features = np.concatenate([part[0] for part in parts])
    labels = np.concatenate([part[1] for part in parts])
    sources = [source for part in parts for source in part[2]]
    metrics = evaluate(features, labels, seed)
    weights, bias = fit_head(features, labels)
    head = {
        "about": "drawn or photograph: sigmoid(f . weights + bias), f open_nsfw's pool at length 1",
        "is_normalised": True,
        "model_sha256": model_sha256(),
        "trained_on": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "pictures": {source: sources.count(source) for source in sorted(set(sources))},
        "metrics": metrics,
        "bias": bias,
        "weights_float32_base64": base64.b64encode(weights.astype("<f4").tobytes()).decode(),
    }
    output.write_text(json.dumps(head, indent=1) + "\n")
    click.echo(json.dumps(metrics, indent=1))


def read_vectors(path: Path) -> tuple[Floats, npt.NDArray[np.int64], list[str]]:
    """Return features, labels (1 drawn) and sources of an npz without pickles."""
    with np.load(path, allow_pickle=False) as data:
        return (
            data["features"].astype(np.float64),
            data["is_art"].astype(np.int64),
            data["source"].tolist(),
        )


def read_folder(folder: Path, label: int) -> tuple[Floats, npt.NDArray[np.int64], list[str]]:
    """Compute the features of every picture below a folder; what is no picture is skipped."""
    extractor = FeatureExtractor()
    rows = []
    for path in sorted(folder.rglob("*")):
        try:
            with Image.open(path) as image:
                rows.append(extractor.features(image.convert("RGB")))
        except (UnidentifiedImageError, OSError):
            click.echo(f"skipped {path}: not a picture", err=True)
    if not rows:
        raise click.UsageError(f"{folder} has no pictures")
    return np.stack(rows).astype(np.float64), np.full(len(rows), label), [folder.name] * len(rows)


def fit_head(features: Floats, labels: npt.NDArray[np.int64]) -> tuple[Floats, float]:
    """Fit a logistic regression on features at length 1; returns weights and bias.

    The regularisation that ranks best is too timid about probabilities; how far its logits are to
    be stretched is fitted to those of pictures that each fold has not seen.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    model = LogisticRegression(C=REGULARISATION, max_iter=5000, class_weight="balanced")
    rows = normalised(features)
    unseen = cross_val_predict(
        model, rows, labels, cv=min(FOLDS, np.bincount(labels).min()), method="decision_function"
    )
    stretch = LogisticRegression(C=np.inf, class_weight="balanced").fit(unseen[:, None], labels)
    factor, offset = float(stretch.coef_[0, 0]), float(stretch.intercept_[0])
    model.fit(rows, labels)
    return model.coef_[0] * factor, float(model.intercept_[0]) * factor + offset


def evaluate(features: Floats, labels: npt.NDArray[np.int64], seed: int) -> dict[str, Any]:
    """Train on a random half and measure on the other."""
    from sklearn.metrics import roc_auc_score

    order = np.random.default_rng(seed).permutation(len(labels))
    train, held_out = order[: len(order) // 2], order[len(order) // 2 :]
    weights, bias = fit_head(features[train], labels[train])
    logits = normalised(features[held_out]) @ weights + bias
    truth = labels[held_out]
    return {
        "held_out": len(held_out),
        "auc": round(float(roc_auc_score(truth, logits)), 4),
        "accuracy": round(float(((logits > 0) == truth).mean()), 4),
        "drawn_found": round(float((logits > 0)[truth == 1].mean()), 4),
        "photos_found": round(float((logits <= 0)[truth == 0].mean()), 4),
        "seed": seed,
    }


if __name__ == "__main__":
    main()
