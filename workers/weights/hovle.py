"""Published tensor names of HoVLE."""

from workers.models.config import Config
from workers.models.hovle import parse_hovle
from workers.weights.rules import DECODERS, INTERNLM2_LAYER, PATCHES, Rules, decoder_reorder, scoped

_TEXT_TABLE = "embedding_model.llm_text_embeddings.weight"
_SPECIAL_TABLE = "embedding_model.special_text_embeddings.weight"


def hovle_rules(config: Config) -> Rules:
    """The backbone's own token table and the class token are in the files, and nothing reads them."""
    spec = parse_hovle(config)
    return Rules(
        names={
            "embedding.weight": (_TEXT_TABLE, _SPECIAL_TABLE) if spec.num_special_tokens else (_TEXT_TABLE,),
            **scoped("patches.", "embedding_model.vision_embeddings.", PATCHES),
            **{
                f"projector.{ours}.{kind}": (f"embedding_model.pixel_shuffle_proj.{number}.{kind}",)
                for number, ours in ((0, "fc1"), (2, "fc2"))
                for kind in ("weight", "bias")
            },
            **scoped("lower.layers.{}.", "embedding_model.encoder.{}.", INTERNLM2_LAYER),
            **scoped("decoder.", "language_model.", DECODERS[spec.decoder.architecture]),
        },
        reorder=decoder_reorder(spec.lower, "lower.") | decoder_reorder(spec.decoder, "decoder."),
        ignored=("language_model.model.tok_embeddings.", "embedding_model.vision_embeddings.class_embedding"),
    )
