"""From a scene to pixels.

Pictures are drawn straight into the squashed square the model sees: an ellipse for a
circle of a wide original and so on, at twice the size, then reduced. This costs about
a millisecond, where drawing a real 800 px original and shrinking it would cost ten.
"""

from __future__ import annotations

import io
import math
import random

import numpy as np
from PIL import Image, ImageDraw

from .lettering import EM, EM_HEIGHT, Lettering, load_font
from .scenes import Background, Finish, Scene, Shape

_NOISE = np.random.default_rng(0).normal(0, 1, (256, 256, 3)).astype(np.float32)


def _corners(shape: Shape) -> list[tuple[float, float]]:
    """Unit polygon of the shape's kind, filling about [-1, 1] on both axes."""
    if shape.kind == "square":
        points = [(-0.92, -0.92), (0.92, -0.92), (0.92, 0.92), (-0.92, 0.92)]
    elif shape.kind == "triangle":
        points = [(0.0, -1.0), (1.0, 0.85), (-1.0, 0.85)]
    else:
        turns = [math.pi * i / 5 for i in range(10)]
        points = [
            ((0.42 if i % 2 else 1.05) * math.sin(t), -(0.42 if i % 2 else 1.05) * math.cos(t))
            for i, t in enumerate(turns)
        ]
    c, s = math.cos(math.radians(shape.angle)), math.sin(math.radians(shape.angle))
    return [(c * x - s * y, s * x + c * y) for x, y in points]


def _paint_shape(draw: ImageDraw.ImageDraw, shape: Shape, side: int) -> None:
    x, y, rx, ry = shape.x * side, shape.y * side, shape.rx * side, shape.ry * side
    if shape.kind == "circle":
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=shape.rgb, outline=shape.outline, width=max(1, side // 90))
        return
    points = [(x + px * rx, y + py * ry) for px, py in _corners(shape)]
    draw.polygon(points, fill=shape.rgb)
    if shape.outline:
        draw.line([*points, points[0]], fill=shape.outline, width=max(1, side // 90))


def _paint_text(picture: Image.Image, text: Lettering, side: int) -> None:
    font = load_font(text.font)
    ascent, descent = font.getmetrics()
    mask = Image.new("L", (max(1, round(font.getlength(text.string))), ascent + descent))
    ImageDraw.Draw(mask).text((0, 0), text.string, font=font, fill=255)
    width = max(1, round(text.width * side))
    height = max(1, round(text.height / EM_HEIGHT * side * (ascent + descent) / EM))
    mask = mask.resize((width, height), Image.Resampling.BILINEAR)
    corner = (round(text.x * side - width / 2), round(text.y * side - height / 2))
    picture.paste(text.rgb, (*corner, corner[0] + width, corner[1] + height), mask)


def _paint_background(background: Background, side: int) -> Image.Image:
    if background.top == background.bottom:
        return Image.new("RGB", (side, side), background.top)
    ramp = np.linspace(0, 1, side, dtype=np.float32)[:, None]
    column = np.array(background.top) * (1 - ramp) + np.array(background.bottom) * ramp
    block = np.repeat(column[:, None].astype(np.uint8), side, axis=1)
    return Image.fromarray(block.transpose(1, 0, 2).copy() if background.sideways else block)


def _finish(picture: Image.Image, finish: Finish, rng: random.Random) -> Image.Image:
    if finish.noise:
        pixels = np.asarray(picture, np.float32)
        i, j = rng.randrange(256), rng.randrange(256)
        noise = np.roll(_NOISE, (i, j), (0, 1))[: pixels.shape[0], : pixels.shape[1]]
        picture = Image.fromarray(np.clip(pixels + noise * finish.noise, 0, 255).astype(np.uint8))
    if finish.jpeg:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=finish.jpeg)
        picture = Image.open(buffer).convert("RGB")
    return picture


def draw_scene(scene: Scene, size: int) -> np.ndarray:
    """The picture as the model's tile: ``size`` x ``size`` x 3, uint8."""
    side = round(size * scene.finish.scale)
    picture = _paint_background(scene.background, side)
    draw = ImageDraw.Draw(picture)
    for shape in scene.shapes:
        _paint_shape(draw, shape, side)
    for text in (scene.lettering, *scene.crowd):
        if text:
            _paint_text(picture, text, side)
    if side != size:
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(_finish(picture, scene.finish, random.Random(scene.seed)))
