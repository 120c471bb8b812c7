"""Cases of sharpness-aware steps: method, ZeRO stage, optimiser and what else may differ; and broken ones."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

from rtk.optim import ema_rate

RANKS, STEPS, BATCH, CLIP = 2, 10, 16, 0.3
RAT_WEIGHT, EPS, CRL_WEIGHT, ASCOOD_WEIGHT, ALPHA = 0.7, 0.02, 2.0, 0.8, 0.5
RATE = functools.partial(ema_rate, decay=0.9, ramp=3)


@dataclass(frozen=True)
class Case:
    variant: str = "fsam"
    stage: int = 1
    base: str = "sgd"
    accumulation: int = 1
    clip: bool = False
    tiny: bool = False  # ZeRO-3 with nothing persistent and small sub-groups
    mutation: str = ""
    sync: str = "global"
    every: int = 1
    rat: bool = False
    crl: bool = False
    ascood: bool = False
    frozen: bool = False  # the second layer takes no gradient
    redraw: bool = False  # another batch in the second pass
    precision: str = "fp32"

    @property
    def name(self) -> str:
        parts = [self.variant, f"zero{self.stage}", self.base, f"x{self.accumulation}"]
        names = ("clip", "tiny", "rat", "crl", "ascood", "frozen", "redraw")
        flags = {name: getattr(self, name) for name in names}
        parts += [name for name, on in flags.items() if on]
        parts += [self.mutation] * bool(self.mutation) + ["local"] * (self.sync == "local")
        return "-".join(parts + [f"every{self.every}"] * (self.every > 1) + [self.precision] * self.reduced)

    @property
    def reduced(self) -> bool:
        """Whether the model computes in bf16."""
        return self.precision != "fp32"


STAGES = (0, 1, 2, 3)
CASES = [
    Case(variant, stage, base, accumulation, clip, tiny)
    for variant, stage, base, accumulation, clip in itertools.product(
        ("sam", "asam", "fsam"), STAGES, ("sgd", "adamw"), (1, 2), (False, True)
    )
    for tiny in ([False, True] if stage == 3 else [False])
]
CASES += [
    Case(stage=stage, accumulation=2, tiny=stage == 3, **option)
    for stage in STAGES
    for option in (
        {"rat": True},
        {"rat": True, "variant": "none"},
        {"frozen": True},
        {"every": 3},
        {"redraw": True, "base": "adamw"},
    )
]
CASES += [
    Case(variant, stage, accumulation=accumulation, sync="local", clip=True)
    for variant, stage, accumulation in itertools.product(("sam", "asam"), (0, 1), (1, 2))
]
CASES += [Case(stage=stage, tiny=stage == 3, crl=True, ascood=True) for stage in STAGES]
CASES += [
    Case(variant, stage, base, accumulation=2, clip=True, tiny=stage == 3, every=every)
    for variant, every, bases in (
        ("looksam", 3, ("sgd", "adamw", "adamw", "sgd")),
        ("msam", 1, ("adamw", "sgd", "sgd", "adamw")),
        ("esam", 1, ("sgd", "adamw", "sgd", "adamw")),
    )
    for stage, base in zip(STAGES, bases, strict=True)
]
CASES += [
    Case("esam", stage, tiny=stage == 3, frozen=True, crl=True, ascood=True, every=2) for stage in STAGES
]
BF16_CASES = [
    Case(stage=stage, precision=precision, accumulation=2)
    for stage, precision in itertools.product(STAGES, ("bf16", "bf16_weights"))
]
BF16_CASES.append(Case(stage=0, base="adamw", precision="bf16_weights"))
# Not clearing the gradients shows where they live in the parameters (0) or accumulate in the shard (3).
MUTATIONS = [
    Case(stage=stage, accumulation=2, mutation=mutation)
    for mutation, stages in {"no_push": (1, 2, 3), "local_norm": (1, 2, 3), "no_clear": (0, 3)}.items()
    for stage in stages
]
MUTATIONS.append(Case("looksam", every=3, mutation="no_addition"))
MUTATIONS += [Case("esam", mutation=mutation) for mutation in ("no_choice", "other_draws")]
