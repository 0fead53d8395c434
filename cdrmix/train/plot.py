"""Draw a run's loss curve from its `metrics.jsonl`."""

from __future__ import annotations

from pathlib import Path

from cdrmix.train.progress import read_metrics
from cdrmix.weights import atomic


def plot_loss(metrics: Path, picture: Path) -> None:
    """Write the training loss and, where it was measured, held-out bits per byte, as a .png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = read_metrics(metrics)
    figure, left = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    losses = [(r["step"], r["loss"]) for r in records if r.get("loss") is not None]
    if losses:
        left.plot(*zip(*losses, strict=True), lw=1, label="training loss")
    left.set(xlabel="step", ylabel="nats a token")
    scored = [(r["step"], r["eval_loss"]) for r in records if r.get("eval_loss") is not None]
    if scored:
        left.plot(*zip(*scored, strict=True), "o-", ms=4, label="held-out loss")
    if losses or scored:
        left.legend()
    left.grid(alpha=0.3)
    with atomic(picture) as f:
        figure.savefig(f, format="png", dpi=120)
    pyplot.close(figure)


def sparkline(values: list[float], width: int = 60) -> str:
    """The values as one line of blocks, averaged down to `width` of them."""
    if not values:
        return ""
    size = max(1, len(values) // width)
    means = [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]
    low, high = min(means), max(means)
    return "".join("▁▂▃▄▅▆▇█"[int(7.999 * (m - low) / (high - low or 1))] for m in means)
