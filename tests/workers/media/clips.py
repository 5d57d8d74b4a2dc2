"""Clips made in memory, honest and forged."""

import contextlib
import io
import os
import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image


def clip(
    num_frames: int = 30,
    size: tuple[int, int] = (64, 48),
    container: str = "mp4",
    codec: str = "libx264",
    keyframe_every: int = 12,
    fps: int = 10,
    b_frames: int = 0,
    **options: Any,
) -> bytes:
    """Each frame is lit evenly, frame k at about 8 * (k % 30): it can be told by its brightness."""
    file = io.BytesIO()
    with _scheduled_as_before(), av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = options.pop("pix_fmt", "yuv420p")
        stream.codec_context.gop_size = keyframe_every
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.thread_count = 1
        stream.options = {key: str(value) for key, value in options.items()}
        for k in range(num_frames):
            picture = np.full((size[1], size[0], 3), 8 * (k % 30), np.uint8)
            picture[: size[1] // 4, : size[0] // 4] = 255  # the upper left corner, to see turns
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                output.mux(packet)
        for packet in stream.encode():
            output.mux(packet)
    return file.getvalue()


@contextlib.contextmanager
def _scheduled_as_before() -> Iterator[None]:
    """SVT-AV1 makes a thread of root's a real-time one for good, and so all that it starts: everybody else starves."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def uneven(times_ms: Sequence[int], container: str = "mp4", codec: str = "libx264") -> bytes:
    """Frame k, drawn as by `clip`, begins at times_ms[k]."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=1000)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.max_b_frames = 0
        stream.codec_context.time_base = Fraction(1, 1000)
        for k, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * (k % 30), np.uint8), format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def repeated(num_frames: int, size: tuple[int, int], fps: int = 30) -> bytes:
    """One JPEG so many times: large clips of keyframes only, made quickly."""
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as output:
        stream = output.add_stream("mjpeg", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, "yuvj420p"
        large = np.full((size[1], size[0], 3), (10, 120, 200), np.uint8)
        (first,) = [*stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")), *stream.encode()]
        content = bytes(first)
        for k in range(num_frames):
            packet = av.Packet(content)
            packet.stream, packet.time_base = stream, Fraction(1, fps)
            packet.pts = packet.dts = k
            packet.is_keyframe = True
            output.mux(packet)
    return file.getvalue()


def wrapped(h264: bytes) -> bytes:
    """A raw stream's packets, whatever they hold, in Matroska."""
    file = io.BytesIO()
    with av.open(io.BytesIO(h264), format="h264") as raw, av.open(file, "w", format="matroska") as output:
        stream = output.add_stream_from_template(raw.streams.video[0])
        for k, packet in enumerate(packet for packet in raw.demux() if packet.size):
            packet.stream, packet.pts, packet.dts = stream, 40 * k, 40 * k
            output.mux(packet)
    return file.getvalue()


def animation(image_format: str, num_frames: int = 30, frame_ms: int = 100) -> bytes:
    """Frames as by `clip`, in WebP, GIF or PNG, by Pillow."""
    pictures = [Image.new("RGB", (64, 48), (8 * (k % 30),) * 3) for k in range(num_frames)]
    file = io.BytesIO()
    pictures[0].save(file, image_format, save_all=True, append_images=pictures[1:], duration=frame_ms, lossless=True)
    return file.getvalue()


def audio_only() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode()]:
            output.mux(packet)
    return file.getvalue()


def forge(content: bytes, box: bytes, at: int, value: int) -> bytes:
    """The 32-bit number `at` bytes behind the first `box` name becomes `value`."""
    changed = bytearray(content)
    struct.pack_into(">I", changed, content.index(box) + 4 + at, value)
    return bytes(changed)


def turned(content: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """The clip with this matrix in its track header (version 0: the matrix is 40 bytes behind the name)."""
    changed = bytearray(content)
    at = content.index(b"tkhd") + 4 + 40
    struct.pack_into(">9i", changed, at, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    return bytes(changed)


HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n%s\n#EXT-X-ENDLIST\n"
FFCONCAT = b"ffconcat version 1.0\nfile '%s'\n"
SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video %d RTP/AVP 96\na=rtpmap:96 H264/90000\n"
DASH = b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><Period><BaseURL>%s</BaseURL></Period></MPD>"


def playlists(port: int) -> dict[str, bytes]:
    """Texts that make a demuxer open what they name."""
    url = f"http://127.0.0.1:{port}/x.ts".encode()
    return {
        "hls http": HLS % url,
        "hls file": HLS % b"file:///etc/hostname",
        "ffconcat absolute": FFCONCAT % b"/etc/hostname",
        "ffconcat subfile": FFCONCAT % (b"subfile,,start,0,end,0,,:" + url),
        "ffconcat crypto": FFCONCAT % (b"crypto:" + url),
        "sdp": SDP % port,
        "dash": DASH % url,
        "hls behind a magic": b"\x00\x00\x00\x18ftypmp42" + HLS % url,
        "hls behind an avi magic": b"RIFF\x00\x00\x00\x00AVI " + HLS % url,
        "hls behind a matroska magic": b"\x1a\x45\xdf\xa3" + HLS % url,
        "smil": b"<smil><body><video src='" + url + b"'/></body></smil>",
        "image2 pattern": b"frame%03d.png",
    }


def brightness(frame: np.ndarray) -> int:
    """The number of the frame that `clip` drew."""
    return round(float(frame[frame.shape[0] // 2 :, frame.shape[1] // 2 :].mean()) / 8)
