"""Whose names the tensors of a file have, and how they become rtk's: a row a project.

A file is read under every row whose mark its names bear, with and without what wrappers have put before them.
The reading that fits the model best is the file's; what is left over is for `rtk.models.weights` to refuse.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rtk.models.dinov3_weights import from_hugging_face, from_meta
from rtk.models.weights_file import LazyTensor, Weights

Shape: TypeAlias = tuple[int, ...]
Tensors: TypeAlias = dict[str, LazyTensor]
Rule: TypeAlias = tuple[str, str | Callable[[re.Match[str]], str]]

AVERAGED_STEPS = "n_averaged"  # a counter of torch.optim.swa_utils.AveragedModel
NORMALISATION = ("mean", "std")  # of the input, as RAT's trainer keeps them beside its network
# Follow from the config: Meta's files hold RoPE's periods, timm's do not; counters only matter to training.
MAY_BE_MISSING = re.compile(r"^backbone\.rope\.periods$|\.num_batches_tracked$")


@dataclass(frozen=True)
class NameMap:
    """How a project names the tensors of its networks.

    Attributes:
        owner: whose names, for messages and for what is kept about an import.
        mark: what one of the names must look like.
        rename: from a file's tensors and the model's own names to tensors by these; not of heads.
        heads: names of the classifier; none: the model's own name for it.
        doubt: what a name looks like where names do not tell networks apart, and what to say then.
    """

    owner: str
    mark: str
    rename: Callable[[Weights, Collection[str]], Tensors]
    heads: tuple[str, ...] = ()
    doubt: tuple[str, str] | None = None


@dataclass(frozen=True)
class Reading:
    """Tensors of a file by rtk's names, `backbone.` and `head.`.

    Attributes:
        owner: of the names in the file.
        tensors: by rtk's names.
        constants: what the file says of settings that are no weights of rtk's: `mean`, `std`, `temperature`.
        doubt: what names and shapes cannot tell of this network; mostly empty.
    """

    owner: str
    tensors: Tensors
    constants: Tensors
    doubt: str = ""


def read_names(weights: Weights, wanted: Mapping[str, Shape], own_heads: Sequence[str]) -> Reading:
    """The reading of a file that fits a model best.

    Args:
        weights: as the file names them.
        wanted: shapes by the model's names, `backbone.` and perhaps `head.`.
        own_heads: the names that the model's own project has for its classifier.
    """
    return min(_readings(weights, wanted, own_heads), key=lambda reading: misfit(wanted, reading.tensors))


def misfit(wanted: Mapping[str, Shape], found: Weights) -> int:
    """Number of names that are missing, unexpected or of another shape; heads count where one is wanted."""
    has_head = any(name.startswith("head.") for name in wanted)
    missing = sum(name not in found and not MAY_BE_MISSING.search(name) for name in wanted)
    return missing + sum(
        wanted.get(name) != tensor.shape
        for name, tensor in found.items()
        if has_head or not name.startswith("head.")
    )


def _readings(weights: Weights, wanted: Mapping[str, Shape], own_heads: Sequence[str]) -> Iterator[Reading]:
    own = {name.removeprefix("backbone.") for name in wanted if name.startswith("backbone.")}
    for bare in _unwrapped(weights):
        constants = {name: bare.pop(name) for name in NORMALISATION if _is_constant(bare, name, own)}
        for row in MAPS:
            if any(re.search(row.mark, name) for name in bare):
                found, told = _with_head(row, row.rename(bare, own), row.heads or own_heads)
                yield Reading(row.owner, found, constants | told, _doubt(row, bare))


def _unwrapped(weights: Weights) -> Iterator[Tensors]:
    """The tensors, then again without each further word that a wrapper has put before every name.

    `torch.compile` puts `_orig_mod.` before a model's or a layer's names, data-parallel wrappers put
    `module.`, trainers such as Lightning `model.`, `backbone.` or any other word.
    """
    found = {name.replace("_orig_mod.", ""): tensor for name, tensor in weights.items()}
    while True:
        yield dict(found)
        apart = {name: found[name] for name in NORMALISATION if name in found}
        names = [name for name in found if name not in (*apart, AVERAGED_STEPS)]
        words = {name.partition(".")[0] for name in names}
        if len(words) != 1 or not all("." in name for name in names):
            return
        found = {name.partition(".")[2]: found[name] for name in names} | apart


def _is_constant(weights: Weights, name: str, own: Collection[str]) -> bool:
    """Whether it is three numbers, one a colour channel, and no weight of the model."""
    return name in weights and name not in own and math.prod(weights[name].shape) == 3


def _doubt(row: NameMap, weights: Weights) -> str:
    if row.doubt is None or not any(re.search(row.doubt[0], name) for name in weights):
        return ""
    return row.doubt[1]


def _with_head(row: NameMap, renamed: Tensors, heads: Sequence[str]) -> tuple[Tensors, Tensors]:
    """Names with `backbone.` or `head.` before them, and what a cosine head's tensors say besides."""
    found: Tensors = {}
    for name, tensor in renamed.items():
        if row.owner == RTK:
            found[name] = tensor
            continue
        head = next((head for head in heads if name.startswith(f"{head}.")), None)
        found[f"backbone.{name}" if head is None else f"head.{name.removeprefix(f'{head}.')}"] = tensor
    if "head.cos_temp" not in found:
        return found, {}
    # SURE's cosine head: a column a class, and a bias that it never uses.
    temperature, weight = found.pop("head.cos_temp"), found["head.weight"]
    found.pop("head.bias", None)
    found["head.weight"] = LazyTensor(weight.shape[::-1], lambda: weight.read().t())
    return found, {"temperature": temperature}


# ---------------------------------------------------------------- rules


def _as_they_are(weights: Weights, own: Collection[str]) -> Tensors:
    return dict(weights)


def _by(*rules: Rule) -> Callable[[Weights, Collection[str]], Tensors]:
    """Renaming by rules, in their order, to torchvision's names, and on to rtk's where these are wanted."""

    def rename(weights: Weights, own: Collection[str]) -> Tensors:
        every = (*rules, *(TO_STAGES if "stages.0.0.conv1.weight" in own else ()))
        return {_renamed(name, every): tensor for name, tensor in weights.items()}

    return rename


def _renamed(name: str, rules: Sequence[Rule]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _one_less(start: str) -> Callable[[re.Match[str]], str]:
    """A replacement: `start`, the first number of the match less one, and the rest of it."""
    return lambda match: f"{start}{int(match[1]) - 1}."


# From torchvision's names to those of rtk's ResNet and WideResNet.
TO_STAGES: tuple[Rule, ...] = (
    (r"^layer(\d+)\.", _one_less("stages.")),
    (r"\.downsample\.", ".shortcut."),
)
WIDE_RESNET: tuple[Rule, ...] = (
    (r"^block(\d+)\.layer\.", r"layer\1."),
    (r"\.convShortcut\.", ".downsample."),
)
PYTORCHCV: tuple[Rule, ...] = (
    (r"^features\.init_block\.(conv\.)?bn\.", "bn1."),
    (r"^features\.init_block\.(conv\.)?conv\.", "conv1."),
    (r"^features\.init_block\.", "conv1."),
    (r"^features\.post_activ\.bn\.", "bn1."),
    (r"^features\.stage(\d+)\.", r"layer\1."),
    (r"(?<=\.)unit(\d+)\.", _one_less("")),
    (r"\.body\.conv(\d)\.(conv|bn)\.", r".\2\1."),
    (r"\.identity_conv\.conv\.", ".downsample.0."),
    (r"\.identity_conv\.bn\.", ".downsample.1."),
    (r"\.identity_conv\.", ".downsample."),
)

_EFFICIENTNET_TOP: tuple[Rule, ...] = (
    (r"^_conv_stem\.", "conv_stem."),
    (r"^_bn0\.", "bn1."),
    (r"^_conv_head\.", "conv_head."),
    (r"^_bn1\.", "bn2."),
)
_EFFICIENTNET_SE: tuple[Rule, ...] = (("_se_reduce", "se.conv_reduce"), ("_se_expand", "se.conv_expand"))
_DEPTHWISE: tuple[Rule, ...] = (("_depthwise_conv", "conv_dw"), ("_project_conv", "conv_pw"), ("_bn", "bn"))
_INVERTED: tuple[Rule, ...] = (
    ("_expand_conv", "conv_pw"),
    ("_depthwise_conv", "conv_dw"),
    ("_project_conv", "conv_pwl"),
    (r"_bn(\d)", lambda match: f"bn{int(match[1]) + 1}"),
)


def _from_efficientnet_pytorch(weights: Weights, own: Collection[str]) -> Tensors:
    """Its blocks are counted through; timm counts them within stages, and a block's layers in their order."""
    places = {match.groups() for name in own if (match := re.match(r"blocks\.(\d+)\.(\d+)\.", name))}
    stages = sorted((int(stage), int(block)) for stage, block in places)

    def renamed(name: str) -> str:
        match = re.match(r"_blocks\.(\d+)\.(.*)", name)
        if match is None:
            return _renamed(name, _EFFICIENTNET_TOP)
        number, layer = int(match[1]), match[2]
        if number >= len(stages):
            return name
        expands = f"_blocks.{number}._expand_conv.weight" in weights
        rules = (*_EFFICIENTNET_SE, *(_INVERTED if expands else _DEPTHWISE))
        return "blocks.{}.{}.{}".format(*stages[number], _renamed(layer, rules))

    return {renamed(name): tensor for name, tensor in weights.items()}


# ---------------------------------------------------------------- whose names there are

RTK = "rtk"
MAPS: tuple[NameMap, ...] = (
    NameMap(RTK, r"^(backbone|head)\.", _as_they_are),
    NameMap("timm, or the model's own", "", _as_they_are),
    NameMap(
        "torchvision, OpenOOD, SUREPlus (ResNets: layer1.0.conv1)",
        r"^layer1\.0\.conv1\.weight$",
        _by(),
        ("fc", "linear", "classifier"),
    ),
    NameMap(
        "OpenOOD, OpenMix (wide ResNets: block1.layer.0)",
        r"^block1\.layer\.0\.conv1\.weight$",
        _by(*WIDE_RESNET),
        ("fc",),
    ),
    NameMap(
        "pytorchcv, RAT (features.init_block)",
        r"^features\.init_block\.",
        _by(*PYTORCHCV),
        ("output",),
        (
            r"\.body\.conv3\.",
            "read as resnet50b and its like, with torchvision's strides; pytorchcv's resnet50 has others "
            "under the same names: check the accuracy",
        ),
    ),
    NameMap(
        "efficientnet_pytorch (_blocks.0._depthwise_conv)",
        r"^_blocks\.0\._depthwise_conv\.weight$",
        _from_efficientnet_pytorch,
        ("_fc",),
    ),
    NameMap("Meta (DINOv3: storage_tokens)", r"^storage_tokens$", from_meta, ("head",)),
    NameMap(
        "Hugging Face (DINOv3: register_tokens)",
        r"embeddings\.register_tokens$",
        from_hugging_face,
        ("head",),
    ),
)
