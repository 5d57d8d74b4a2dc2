"""What `glimpsed models` says: its figures are those of the models, its families those that can be served."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.workers.models.goldens import model as golden_model
from workers.catalogue.listing import FOLDER, Family, as_json, as_text, read_families, read_figures
from workers.catalogue.measure import measure, published_config
from workers.handlers.defaults import SamplingDefaults
from workers.models.pvc import parse_pvc
from workers.models.registry import _ARCHITECTURES, resolve_architecture
from workers.weights.load import measure_model

ROOT = Path(__file__).parents[3]
KNOWN = [pytest.param(family, name, id=name) for family in read_families() for name in family.checkpoints]
FIGURES = read_figures()
UNREAD_TABLE = 92553 * 2048
"""HoVLE's files hold a second token table that nothing reads."""


def test_each_architecture_with_a_model_is_listed_once():
    assert sorted(family.architecture for family in read_families()) == sorted(["", *_ARCHITECTURES])


@pytest.mark.parametrize(("family", "name"), KNOWN)
def test_stored_figures_are_those_of_the_model(family: Family, name: str):
    assert FIGURES[name] == measure(family, name)
    size = measure_model(published_config(family, name), torch.bfloat16)
    stored = FIGURES[name]
    assert (size.num_parameters, size.weight_bytes, size.kv_bytes_per_token) == (
        stored.num_parameters,
        stored.weight_bytes,
        stored.kv_bytes_per_token,
    )


def test_every_figure_and_every_dimension_belongs_to_a_listed_checkpoint():
    listed = [name for family in read_families() for name in family.checkpoints]
    table = json.loads((FOLDER / "dimensions.json").read_text())
    assert sorted(listed) == sorted(FIGURES) == sorted(table["checkpoints"])
    used = {part for entry in table["checkpoints"].values() for part in entry.values() if isinstance(part, str)}
    assert used == set(table["parts"])


@pytest.mark.parametrize(("family", "name"), KNOWN)
def test_dimensions_lead_to_the_family_they_stand_under(family: Family, name: str):
    assert resolve_architecture(published_config(family, name)) == family.architecture


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("InternVL-Chat-V1-1", 19),
        ("InternVL-Chat-V1-2", 40.1),
        ("InternVL-Chat-V1-5", 25.5),
        ("Mini-InternVL-Chat-2B-V1-5", 2.2),
        ("Mini-InternVL-Chat-4B-V1-5", 4.15),
        ("InternVL2-1B", 0.94),
        ("InternVL2-8B", 8.08),
        ("InternVL2-26B", 25.5),
        ("InternVL2-40B", 40.1),
        ("InternVL2-Llama3-76B", 76.3),
        ("InternVL2_5-4B", 3.71),
        ("InternVL2_5-38B", 38.4),
        ("InternVL2_5-78B", 78.4),
        ("InternVL3-2B", 2.09),
        ("InternVL3-8B", 7.94),
        ("InternVL3-14B", 15.1),
        ("Mono-InternVL-2B", 3.11),
    ],
)
def test_parameters_are_as_many_as_the_authors_say(name: str, billions: float):
    assert FIGURES[name].num_parameters / 1e9 == pytest.approx(billions, rel=0.02 if billions == 19 else 0.005)


@pytest.mark.parametrize("name", ["HoVLE", "HoVLE-HD"])
def test_hovle_has_its_published_size_with_the_table_that_nothing_reads(name: str):
    assert (FIGURES[name].num_parameters + UNREAD_TABLE) / 1e9 == pytest.approx(2.6, rel=0.01)


def test_keys_and_values_of_a_token_are_counted_in_every_stack():
    assert FIGURES["InternVL2-8B"].kv_bytes_per_token == 2 * 32 * 8 * 128 * 2
    assert FIGURES["HoVLE"].kv_bytes_per_token == 2 * (24 + 8) * 8 * 128 * 2
    assert FIGURES["HoVLE-HD"].kv_bytes_per_token == 2 * (24 + 4 * 8) * 8 * 128 * 2


def test_the_published_pvc_is_larger_than_what_is_built_here():
    """Its four shards have 19.10 GB: the real temporal part is another than the one that was guessed."""
    assert 1.2e9 < 19.10e9 / 2 - FIGURES["PVC-InternVL2-8B"].num_parameters < 1.5e9


def test_tokens_of_a_tile_count_its_repetitions():
    pvc = FIGURES["PVC-InternVL2-8B"]
    assert (pvc.tokens_per_tile, pvc.tokens_per_frame) == (256, 64)
    assert (FIGURES["InternVL2-8B"].tokens_per_tile, FIGURES["InternVL2-8B"].tokens_per_frame) == (256, 256)
    assert parse_pvc(published_config(read_families()[3], "PVC-InternVL2-8B")).num_image_repeats == 4
    assert golden_model("pvc").tokens_per_tile == 4


@pytest.mark.parametrize("family", read_families(), ids=lambda family: family.name)
def test_generation_defaults_are_those_that_the_handler_uses(family: Family):
    used = SamplingDefaults(frozenset(), min_tokens=family.generation["min_tokens"])
    assert family.generation == {name: getattr(used, name) for name in family.generation}
    assert set(family.generation) == {"temperature", "top_p", "top_k", "repetition_penalty", "min_tokens"}


def test_text_and_json_say_the_same():
    told, text = json.loads(as_json()), as_text()
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    assert told["dtype"] == "bfloat16"
    for family in told["families"]:
        assert family["name"] in text and family["status"] in text
        for checkpoint in family["checkpoints"]:
            row = rows[checkpoint["name"]]
            assert f"{checkpoint['num_parameters'] / 1e9:.2f} B" in row
            assert str(checkpoint["tokens_per_tile"]) in row.split()


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_the_list_is_there_without_model_code(flags: list[str]):
    program = (
        "import sys; from workers.__main__ import main; "
        f"code = main(['--list-families', *{flags!r}]); "
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "InternVL2-8B" in done.stdout
    assert not flags or json.loads(done.stdout)["families"]
