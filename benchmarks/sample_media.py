"""Pictures and clips to measure with: drawn, seeded, as hard to decode as a camera's."""

import io

import av
import numpy as np
from PIL import Image


def photograph(width: int, height: int, seed: int) -> bytes:
    """A JPEG of soft shapes with a sensor's noise."""
    random = np.random.default_rng(seed)
    shapes = random.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    soft = np.asarray(Image.fromarray(shapes).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = soft + random.integers(-10, 11, soft.shape, np.int16)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
    return file.getvalue()


def moving_clip(width: int, height: int, seconds: int, seed: int, fps: int = 30) -> bytes:
    """An MP4 of H.264 whose picture moves, with a keyframe every second."""
    random = np.random.default_rng(seed)
    shapes = random.integers(0, 256, (height // 16, width // 8, 3), np.uint8)
    wide = np.asarray(Image.fromarray(shapes).resize((2 * width, height), Image.Resampling.BICUBIC))
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = fps
        for k in range(seconds * fps):
            left = 3 * k % width
            frame = np.ascontiguousarray(wide[:, left : left + width])
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    return file.getvalue()
