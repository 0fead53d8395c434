"""The GPUs that a run can be planned for, by what their makers say of them.

Output: `CARDS`, by name; `card` finds one.

Sources: the data sheets of NVIDIA's A100 80GB SXM, H100 SXM, H200 SXM, DGX B200, L40S and the Ada and Blackwell GeForce
white papers; AMD's of Instinct MI250, MI300X, MI325X and MI355X, and of the Radeon RX 7900 XTX.  Products are without
sparsity, in bf16 with sums in f32.  Links go one way.  `network` is no property of a card: it is what the makers' own
servers have for each (DGX A100: 200 Gb/s, DGX H100 and B200, and the reference servers of MI300: 400 Gb/s); for single
cards, 100 Gb/s for a machine of eight is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cdrmix.diagnose import UserError, did_you_mean


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU: FLOP/s of bf16 products and of f32 arithmetic, bytes of memory, and bytes a second: of its memory, of its
    links to the others of its machine (`node` of them), and of its share of the machine's network."""

    name: str
    bf16: float
    f32: float
    memory: float
    bandwidth: float
    link: float
    network: float
    node: int = 8

    def between(self, here: int) -> float:
        """Bytes a second that each of a group gets, where `here` of it are in one machine and others elsewhere."""
        return min(self.link, self.network * here)


CARDS: Mapping[str, Card] = {
    card.name: card
    for card in (
        Card("a100", 312e12, 19.5e12, 80e9, 2.039e12, 300e9, 25e9),
        Card("h100", 989e12, 67e12, 80e9, 3.35e12, 450e9, 50e9),
        Card("h200", 989e12, 67e12, 141e9, 4.8e12, 450e9, 50e9),
        Card("b200", 2250e12, 75e12, 180e9, 8e12, 900e9, 50e9),
        Card("mi250", 181e12, 22.6e12, 64e9, 1.638e12, 150e9, 25e9),  # one of its two dies: torch sees two GPUs
        Card("mi300x", 1307e12, 163.4e12, 192e9, 5.3e12, 448e9, 50e9),
        Card("mi325x", 1307e12, 163.4e12, 256e9, 6e12, 448e9, 50e9),
        Card("mi355x", 2516e12, 157.3e12, 288e9, 8e12, 537e9, 50e9),
        Card("l40s", 362e12, 91.6e12, 48e9, 0.864e12, 32e9, 1.6e9),
        Card("3090", 71e12, 35.6e12, 24e9, 0.936e12, 32e9, 1.6e9),
        Card("4090", 165e12, 82.6e12, 24e9, 1.008e12, 32e9, 1.6e9),
        Card("5090", 209e12, 104.8e12, 32e9, 1.792e12, 64e9, 1.6e9),
        Card("7900xtx", 123e12, 61.4e12, 24e9, 0.96e12, 32e9, 1.6e9),
    )
}

EFFICIENCY = 0.6
"""The share of a card's peak that products of a training step reach, assumed; large ones of cuBLAS on an H100 reach
about 0.7."""


def card(name: str) -> Card:
    """The card of a name.  Raises `UserError` with the nearest one for an unknown one."""
    known = CARDS.get(name.lower())
    if known is None:
        raise UserError(f"no card `{name}`", did_you_mean(name.lower(), CARDS) or f"the cards are {', '.join(CARDS)}")
    return known
