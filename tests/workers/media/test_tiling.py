import hashlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from workers.media.image import open_image
from workers.media.tiling import choose_grid, count_tiles, write_tiles


def test_every_grid_of_the_reference_table_is_chosen(preprocess: dict[str, Any]) -> None:
    for width, height, max_tiles, columns, rows, tiles in preprocess["grid_table"]:
        grid = choose_grid(width, height, 1, max_tiles, 448)
        assert (grid, count_tiles(grid, True)) == ((columns, rows), tiles), (width, height, max_tiles)


@pytest.mark.parametrize("position", range(11))
def test_tiles_equal_the_reference_byte_for_byte(
    position: int, preprocess: dict[str, Any], read_media: Callable[[str], bytes]
) -> None:
    golden = preprocess["images"][position]
    picture = open_image(io.BytesIO(read_media(golden["image"])), exif_transpose=False)
    assert list(picture.size) == golden["size"]
    assert _sha256(np.asarray(picture)) == golden["rgb_sha256"]
    for result in golden["results"]:
        size = result["image_size"]
        grid = choose_grid(*picture.size, 1, result["max_num"], size)
        assert list(grid) == result["grid_cols_rows"]
        tiles = np.empty((count_tiles(grid, True), size, size, 3), np.uint8)
        assert len(tiles) == result["num_tiles"]
        write_tiles(picture, grid, tiles)
        assert _sha256(tiles) == result["tiles_uint8_sha256"]


def test_a_small_square_stays_one_tile_and_a_large_one_grows() -> None:
    assert choose_grid(448, 448, 1, 12, 448) == (1, 1)
    assert choose_grid(2000, 2000, 1, 12, 448) == (3, 3)


def test_min_tiles_leaves_smaller_grids_out() -> None:
    assert choose_grid(100, 100, 4, 12, 448) == (2, 2)
    assert choose_grid(100, 100, 12, 12, 448)[0] * choose_grid(100, 100, 12, 12, 448)[1] == 12


@pytest.mark.parametrize(("min_tiles", "max_tiles"), [(2, 1), (0, 3), (1, 0)])
def test_impossible_tile_bounds_are_refused(min_tiles: int, max_tiles: int) -> None:
    with pytest.raises(ValueError):
        choose_grid(10, 10, min_tiles, max_tiles, 448)


def test_one_tile_has_no_thumbnail() -> None:
    assert count_tiles((1, 1), use_thumbnail=True) == 1
    assert count_tiles((2, 1), use_thumbnail=True) == 3
    assert count_tiles((2, 1), use_thumbnail=False) == 2


def test_tiles_come_row_by_row_and_the_thumbnail_last() -> None:
    quarters = np.zeros((8, 8, 3), np.uint8)
    quarters[:4, 4:], quarters[4:, :4], quarters[4:, 4:] = 50, 100, 150
    tiles = np.empty((5, 4, 4, 3), np.uint8)
    write_tiles(Image.fromarray(quarters), (2, 2), tiles)
    assert [int(tile.max()) for tile in tiles[:4]] == [0, 50, 100, 150]
    assert 50 < tiles[4].mean() < 100


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()
