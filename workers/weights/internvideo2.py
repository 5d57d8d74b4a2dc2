"""Published tensor names of InternVideo2-Chat: adapters are merged, what is only used in training is passed over."""

from workers.models.config import Config
from workers.models.internvideo2_config import parse_internvideo2
from workers.weights.lora import Lora
from workers.weights.rules import DECODERS, INTERNVIT, Names, Rules, scoped

_TOWER: Names = {
    "class_token": ("cls_token",),
    "positions": ("pos_embed",),
    "image_positions": ("img_pos_embed",),
    "patch.weight": ("patch_embed.proj.weight",),
    "patch.bias": ("patch_embed.proj.bias",),
    **{
        ours: tuple(name.replace("encoder.layers.", "blocks.") for name in published)
        for ours, published in INTERNVIT.items()
        if ours.startswith("layers.")
    },
}
_KINDS = ("weight", "bias")


def _attention(ours: str, published: str) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for kind in _KINDS:
        names[f"{ours}query.{kind}"] = (f"{published}self.query.{kind}",)
        names[f"{ours}key_value.{kind}"] = (f"{published}self.key.{kind}", f"{published}self.value.{kind}")
        names[f"{ours}out.{kind}"] = (f"{published}output.dense.{kind}",)
        names[f"{ours}norm.{kind}"] = (f"{published}output.LayerNorm.{kind}",)
    return names


def _feed_forward(ours: str, published: str) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for kind in _KINDS:
        names[f"{ours}fc1.{kind}"] = (published.format("intermediate") + f".dense.{kind}",)
        names[f"{ours}fc2.{kind}"] = (published.format("output") + f".dense.{kind}",)
        names[f"{ours}norm.{kind}"] = (published.format("output") + f".LayerNorm.{kind}",)
    return names


_LAYER = "qformer.bert.encoder.layer.{}."
_QFORMER: Names = {
    "queries": ("query_tokens",),
    "extra_queries": ("extra_query_tokens",),
    "words": ("qformer.bert.embeddings.word_embeddings.weight",),
    "positions": ("qformer.bert.embeddings.position_embeddings.weight",),
    **{f"norm.{kind}": (f"qformer.bert.embeddings.LayerNorm.{kind}",) for kind in _KINDS},
    **_attention("layers.{}.self.", f"{_LAYER}attention."),
    **_attention("layers.{}.cross.", f"{_LAYER}crossattention."),
    **{
        ours: tuple(_LAYER + name for name in published)
        for prefix, pattern in (("layers.{}.query_mlp.", "{}_query"), ("layers.{}.text_mlp.", "{}"))
        for ours, published in _feed_forward(prefix, pattern).items()
    },
}


def internvideo2_rules(config: Config) -> Rules:
    """The table of one checkpoint."""
    spec = parse_internvideo2(config)
    adapted = ("_proj.weight", "lm_head.weight")
    return Rules(
        names={
            **scoped("vision.", "vision_encoder.", _TOWER),
            **scoped("qformer.", "", _QFORMER),
            **{f"vision_norm.{kind}": (f"vision_layernorm.{kind}",) for kind in _KINDS},
            **{f"project.{kind}": (f"project_up.{kind}",) for kind in _KINDS},
            **scoped("decoder.", "lm.base_model.model.", DECODERS[spec.decoder.architecture]),
        },
        ignored=("project_down.", "qformer.bert.embeddings.position_ids"),
        lora=None if spec.lora_scale is None else Lora(spec.lora_scale, adapted),
    )
