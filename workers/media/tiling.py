"""A picture into square tiles: the grid, the resize, the cut. Pure.

The rules are those of the InternVL model cards (`dynamic_preprocess`): Pillow's bicubic filter on 8-bit RGB, so the
bytes equal the reference's. Faster filters (torch's antialiased uint8 one, JPEG draft mode) are not exact and not used.
"""

import numpy as np
from PIL import Image


def choose_grid(width: int, height: int, min_tiles: int, max_tiles: int, image_size: int) -> tuple[int, int]:
    """The (columns, rows) whose ratio is nearest to width/height, with min_tiles <= columns * rows <= max_tiles.

    Candidates are walked by area. Of two equally near ratios the larger grid wins if the picture has more than half of
    that grid's pixels: a small square stays one tile, a large one becomes 2x2 or 3x3.
    Raises ValueError where min_tiles > max_tiles or max_tiles < 1.
    """
    if not 1 <= min_tiles <= max_tiles:
        raise ValueError("min_tiles must be at least 1 and at most max_tiles")
    aspect = width / height
    best, best_distance = (1, 1), float("inf")
    for columns, rows in _grids(min_tiles, max_tiles):
        distance = abs(aspect - columns / rows)
        is_tie_for_larger = distance == best_distance and width * height > 0.5 * image_size**2 * columns * rows
        if distance < best_distance or is_tie_for_larger:
            best, best_distance = (columns, rows), distance
    return best


def _grids(min_tiles: int, max_tiles: int) -> list[tuple[int, int]]:
    grids = [
        (columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
        if columns * rows >= min_tiles
    ]
    return sorted(grids, key=lambda grid: grid[0] * grid[1])


def count_tiles(grid: tuple[int, int], use_thumbnail: bool) -> int:
    """Tiles of one picture; the thumbnail comes only where there is more than one."""
    tiles = grid[0] * grid[1]
    return tiles + 1 if use_thumbnail and tiles > 1 else tiles


def write_tiles(picture: Image.Image, grid: tuple[int, int], tiles: np.ndarray) -> None:
    """Fill `tiles`, uint8 [N, S, S, 3], row by row from an RGB picture; one row more than the grid's: a thumbnail."""
    columns, rows = grid
    size = tiles.shape[1]
    canvas = np.asarray(picture.resize((columns * size, rows * size), Image.Resampling.BICUBIC))
    cut = canvas.reshape(rows, size, columns, size, 3).swapaxes(1, 2)
    tiles[: rows * columns].reshape(rows, columns, size, size, 3)[...] = cut
    if len(tiles) > rows * columns:
        tiles[-1] = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
