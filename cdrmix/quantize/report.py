"""What `cdrmix quantize` found: for people, for machines and for the artefact's manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdrmix.quantize.policy import Group
from cdrmix.quantize.rounding import Off


@dataclass(frozen=True, slots=True)
class Found:
    """`bits` a byte and `bytes` of weights before and after; `tokens` of the sample and of what was scored; `most`: the
    part of the bits that might be lost; by group its encoding and what that alone costs the sample, in bits per byte;
    how far each tensor is `off`; the `rules` for `--encode`; and a name for the `text`."""

    bits: tuple[float, float]
    tokens: tuple[int, int]
    bytes: tuple[int, int]
    most: float
    groups: Sequence[tuple[Group, str, float]]
    off: Mapping[str, Off]
    rules: Sequence[str]
    text: str

    @property
    def lost(self) -> float:
        """The part of the bits per byte that was lost."""
        return self.bits[1] / self.bits[0] - 1

    def policy(self) -> dict[str, Any]:
        """What the manifest says."""
        return {
            "text": self.text,
            "tokens": {"sample": self.tokens[0], "scored": self.tokens[1]},
            "bits_per_byte": {"before": self.bits[0], "after": self.bits[1]},
            "max_loss": self.most,
            "policy": {group.pattern: to for group, to, _ in self.groups},
        }

    def as_data(self) -> dict[str, Any]:
        """All of it."""
        return {
            **self.policy(),
            "lost": self.lost,
            "bytes": {"before": self.bytes[0], "after": self.bytes[1]},
            "groups": [
                {
                    "paths": g.pattern,
                    "tensors": list(g.paths),
                    "stored": to,
                    "bytes": g.bytes(to),
                    "bits_per_byte": cost,
                }
                for g, to, cost in self.groups
            ],
            "tensors": [{"path": path, "weights": x.weights, "products": x.products} for path, x in self.off.items()],
            "encode": list(self.rules),
        }

    def text_of(self) -> str:
        """The same for people: a row a group, what costs most first, with the errors of its worst tensor."""
        rows = [("", "held as", "bytes", "weights", "products", "bits per byte")]
        for group, to, cost in sorted(self.groups, key=lambda row: -row[2]):
            worst = max((self.off[path] for path in group.paths), key=lambda off: off.products or off.weights)
            products = "" if worst.products is None else f"{worst.products:.1e}"
            rows.append((group.pattern, to, f"{group.bytes(to):,}", f"{worst.weights:.1e}", products, f"{cost:.5f}"))
        wide = [max(len(row[column]) for row in rows) for column in range(6)]
        lines = [
            "  ".join(f"{cell:{'<' if column < 2 else '>'}{wide[column]}}" for column, cell in enumerate(row))
            for row in rows
        ]
        (before, after), (large, small) = self.bits, self.bytes
        return "\n".join(
            [
                *(line.rstrip() for line in lines),
                "",
                f"bits per byte  {before:.4f} in f32, {after:.4f} now: {self.lost:+.2%}, of {self.tokens[1]:,} tokens"
                f" beside the {self.tokens[0]:,} that were chosen and rounded by",
                f"weights        {large / 1e6:.2f} MB in f32, {small / 1e6:.2f} MB now",
            ]
        )
