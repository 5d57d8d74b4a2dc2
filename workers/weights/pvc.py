"""Published tensor names of PVC-InternVL2, and the check that nothing is loaded of which the layout is not known."""

import logging

import torch

from workers.models.base import ModelError
from workers.models.config import Config
from workers.models.pvc import PVC, parse_pvc
from workers.models.pvc_temporal import TEMPORAL_NAMES
from workers.weights.files import CheckpointFiles
from workers.weights.rules import DECODERS, INTERNVIT, PROJECTOR, Rules, decoder_reorder, scoped
from workers.weights.sources import ListingSource, fits

_VISUAL = ("vision_model.", "mlp1")
_MAX_LISTED = 10
UNKNOWN_LAYOUT = (
    "this checkpoint's temporal modules use a layout this build does not know; PVC support is unverified against the "
    "released code"
)

log = logging.getLogger(__name__)


def pvc_rules(config: Config) -> Rules:
    """The table of one checkpoint; the visual part must be there to the last name and shape."""
    spec = parse_pvc(config)
    return Rules(
        names={
            **scoped("vision.", "vision_model.", INTERNVIT),
            **scoped("projector.", "mlp1.", PROJECTOR),
            **(TEMPORAL_NAMES if spec.temporal else {}),
            **scoped("decoder.", "language_model.", DECODERS[spec.chat.decoder.architecture]),
        },
        reorder=decoder_reorder(spec.chat.decoder, "decoder."),
        check=check_layout,
    )


def check_layout(config: Config, rules: Rules, files: CheckpointFiles) -> None:
    """Compare names and shapes of the visual part with what the model will ask for; headers only, no weights.

    Raises ModelError naming what is missing, unexpected or of another shape: a tower without its temporal modules
    would answer fluently and wrongly.
    """
    expected = _visual_shapes(config, rules)
    found = {name: files.shape(name) for name in files.names if name.startswith(_VISUAL)}
    wrong = {
        "missing": {name: f"{list(shape)}" for name, shape in expected.items() if name not in found},
        "unexpected": {name: f"{list(shape)}" for name, shape in found.items() if name not in expected},
        "of another shape": {
            name: f"{list(shape)} instead of {list(expected[name])}"
            for name, shape in found.items()
            if name in expected and not fits(shape, expected[name])
        },
    }
    if any(wrong.values()):
        num_temporal = len(found.keys() - _visual_shapes({**config, "use_temporal": False}, rules).keys())
        described = "; ".join(f"{len(names)} {kind}: {_list(names)}" for kind, names in wrong.items() if names)
        raise ModelError(
            f"PVC-InternVL2: visual tensors {described}; {num_temporal} temporal tensors found; {UNKNOWN_LAYOUT}"
        )
    if parse_pvc(config).temporal is None:
        log.warning("use_temporal is false: PVC-InternVL2 without temporal modules, a plain InternViT as configured")
    else:
        log.warning("PVC-InternVL2 is experimental: its temporal part is unverified against the released code")


def _visual_shapes(config: Config, rules: Rules) -> dict[str, tuple[int, ...]]:
    """Published names and shapes of the tower and the projector that a config asks for."""
    listing = ListingSource(rules, torch.float32)
    PVC(config, listing)
    return {name: shape for name, shape in listing.shapes.items() if name.startswith(_VISUAL)}


def _list(names: dict[str, str]) -> str:
    listed = ", ".join(f"{name} {names[name]}" for name in sorted(names)[:_MAX_LISTED])
    return listed + (", ..." if len(names) > _MAX_LISTED else "")
