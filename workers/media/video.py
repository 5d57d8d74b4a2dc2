"""Frames of a clip as RGB, with PyAV. Judges the container before any frame is decoded.

Runs in the decode process. The reader is chosen by the file's first bytes and forced: a playlist, a session description
or any other text never reaches a demuxer, and no protocol is open to one. Audio is never decoded.

decord is not used. Its decoder (an FFmpeg of 2018) follows playlists inside the bytes it is given and aborts the
process on a forged frame count, so PyAV must open every file first anyway; after that decord gains nothing: its frames
equal PyAV's rgb24 bit for bit on 8-bit files, it is slower than sequential decoding here (38 against 48-56 frames/s at
1280x720), and it cannot open AV1.
"""

import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Protocol

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from workers.media.animation import WebPClip
from workers.media.clip_rules import (
    MAX_DURATION_S,
    MAX_FPS,
    MAX_PACKETS,
    MAX_PIXELS,
    bad_format,
    check_size,
    damaged,
    too_long,
    translated_errors,
)
from workers.media.failures import Failure, media_error
from workers.media.fast_resize import to_square
from workers.media.orientation import apply_display_matrix, turned_size
from workers.media.types import MediaKind

_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_DECODERS = (
    "h264,hevc,vp8,vp9,libvpx,libvpx-vp9,av1,libdav1d,mpeg4,msmpeg4,msmpeg4v2,mpeg1video,mpeg2video,h263,mjpeg,prores,"
    "theora,wmv2,gif,ffv1"
)
_SKIPPING_DECODERS = ("h264", "hevc")
_NOTHING_ELSE = {"format_whitelist": "", "protocol_whitelist": "none", "codec_whitelist": _DECODERS}


class VideoClip(Protocol):
    """Frames by number. `times_s`: when each one begins, counted from the first. `shown_size`: width and height of the
    frame that was read last, as it is to be shown."""

    frame_count: int
    average_fps: float
    times_s: Sequence[float]
    shown_size: tuple[int, int]

    def read(self, indices: Sequence[int], square: int | None = None) -> Iterator[np.ndarray]:
        """RGB frames, uint8 [H, W, 3], turned as the file says, for rising `indices`; a repeated index comes once.

        square: scaled to that side, both ways, by the fast filter.
        """
        ...


class Clip:
    """What the packets of one video stream say; frames are decoded on demand.

    `frame_count` counts the packets that are there, never what a header claims. `average_fps` is the container's rate.
    """

    def __init__(self, source: BinaryIO, container_format: str, num_threads: int) -> None:
        self._source = source
        self._format = container_format
        self._num_threads = num_threads
        self.shown_size = (0, 0)
        with self._open() as (container, stream):
            _check_header(container, stream)
            self.frame_count, timestamps, self._keys = _index(container, stream)
            declared_rate = stream.average_rate
            tick_s = float(stream.time_base or 0)
        span_s = (timestamps[-1] - timestamps[0]) * tick_s if timestamps else 0.0
        if span_s > MAX_DURATION_S:
            raise too_long()
        self.average_fps = _rate(declared_rate, self.frame_count, span_s)
        self.times_s: Sequence[float] = [(at - timestamps[0]) * tick_s for at in timestamps] or [
            index / self.average_fps for index in range(self.frame_count)
        ]
        # Without time stamps frames are known by their count alone, and nothing can be skipped.
        self._is_timed = bool(timestamps)
        self._timestamps = timestamps or list(range(self.frame_count))
        self._can_seek = bool(self._keys)

    def read(self, indices: Sequence[int], square: int | None = None) -> Iterator[np.ndarray]:
        """See `VideoClip`.

        Decodes on from frame to frame, and seeks only where that skips a keyframe. A seek that lands behind its frame
        ends seeking: everything after it is decoded in order.
        """
        wanted = sorted(set(indices))
        converter = VideoReformatter()  # one for all frames: each has a scaler of its own otherwise
        matrix: bytes | None = None
        done = 0
        while done < len(wanted):
            with self._open() as (container, stream):
                for frame in self._walk(container, stream, wanted[done:]):
                    if done == 0:
                        # Of the container, the same on all frames. Asking ties a frame to itself until the collector
                        # comes round: asked of all, they would fill the memory before that.
                        matrix = _display_matrix(frame)
                    check_size(frame.width, frame.height)
                    self.shown_size = turned_size(frame.width, frame.height, matrix)
                    pixels = _to_rgb(frame, converter) if square is None else to_square(frame, square, converter)
                    yield apply_display_matrix(pixels, matrix)
                    done += 1
            if done < len(wanted):
                if not self._can_seek:
                    raise damaged()
                self._can_seek = False

    def _walk(
        self, container: av.container.InputContainer, stream: av.VideoStream, wanted: Sequence[int]
    ) -> Iterator[av.VideoFrame]:
        """A frame for each of `wanted`; ends early where a seek went too far."""
        stamps = frozenset(self._timestamps[index] for index in wanted) if self._is_timed else None
        frames = _numbered(container, stream, stamps)
        frame: av.VideoFrame | None = None
        at = self._timestamps[0] - 1
        for index in wanted:
            target = self._timestamps[index]
            key = self._keys[max(0, bisect.bisect_right(self._keys, target) - 1)] if self._can_seek else at
            has_sought = at < key <= target
            if has_sought:
                container.seek(key, stream=stream)
                frames = _numbered(container, stream, stamps)
                frame = None
            while frame is None or at < target:
                step = next(frames, None)
                if step is None:
                    break
                at, frame = step
                if has_sought and at > target:
                    return
                has_sought = False
            if frame is None:
                raise damaged()
            yield frame

    @contextmanager
    def _open(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        self._source.seek(0)
        options = _NOTHING_ELSE | {"format_whitelist": _FORMAT_NAMES[self._format]}
        with av.open(self._source, "r", format=self._format, options=options, metadata_errors="replace") as container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams or streams[0].codec_context is None:
                raise media_error(MediaKind.VIDEO, Failure.PARSE, "The file has no video that can be decoded.")
            stream = streams[0]
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = self._num_threads
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            yield container, stream


_FORMAT_NAMES = {"mov": "mov,mp4,m4a,3gp,3g2,mj2", "matroska": "matroska,webm", "avi": "avi", "gif": "gif"}


def open_clip(source: BinaryIO, num_threads: int = 1) -> VideoClip:
    """num_threads: of the decoder. Raises MediaError: not a readable container, too long, too large, no video in it,
    broken."""
    container_format = _sniff(source)
    with translated_errors():
        return WebPClip(source) if container_format == "webp" else Clip(source, container_format, num_threads)


def _sniff(source: BinaryIO) -> str:
    head = source.read(16)
    source.seek(0)
    if head[4:8] in _MOV_BOXES:
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WEBP"):
        return head[8:12].decode().strip().lower()
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    raise bad_format()


def _check_header(container: av.container.InputContainer, stream: av.VideoStream) -> None:
    check_size(stream.codec_context.width, stream.codec_context.height)
    lengths_s = [(container.duration or 0) / av.time_base, float((stream.duration or 0) * (stream.time_base or 0))]
    if max(lengths_s) > MAX_DURATION_S:
        raise too_long()


def _index(container: av.container.InputContainer, stream: av.VideoStream) -> tuple[int, list[int], list[int]]:
    """Number of frames, their time stamps in order, those of keyframes; from the packets alone, nothing is decoded.

    Both lists are empty where a packet has no time stamp.
    """
    timestamps: list[int | None] = []
    keys: list[int | None] = []
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard:
            continue
        if packet.is_corrupt:
            raise damaged()
        timestamps.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)
        if len(timestamps) > MAX_PACKETS:
            raise too_long()
    if not timestamps:
        raise media_error(MediaKind.VIDEO, Failure.PARSE, "The video has no frames.")
    timed = [at for at in timestamps if at is not None]
    if len(timed) < len(timestamps):
        return len(timestamps), [], []
    return len(timestamps), sorted(timed), sorted(at for at in keys if at is not None)


def _numbered(
    container: av.container.InputContainer, stream: av.VideoStream, stamps: frozenset[int] | None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames with their time stamps, those of `stamps` among them; None: every frame, with its number.

    Frames that nobody wants and no other frame refers to are not decoded, which changes no pixel of the rest.
    """
    count = 0
    skips = stream.codec_context.name in _SKIPPING_DECODERS
    for packet in container.demux(stream):
        if skips and stamps is not None:
            is_wanted = packet.pts is None or packet.pts in stamps
            stream.codec_context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
        for frame in packet.decode():
            if stamps is None:
                yield count, frame
            elif frame.pts is not None:
                yield frame.pts, frame
            count += 1


def _rate(declared: object, frame_count: int, span_s: float) -> float:
    fps = float(declared) if declared else 0.0  # type: ignore[arg-type]
    if not 0 < fps <= MAX_FPS:
        fps = (frame_count - 1) / span_s if frame_count > 1 and span_s > 0 else 1.0
    return min(fps, float(MAX_FPS))


def _to_rgb(frame: av.VideoFrame, converter: VideoReformatter) -> np.ndarray:
    return converter.reformat(frame, format="rgb24", threads=1).to_ndarray()


def _display_matrix(frame: av.VideoFrame) -> bytes | None:
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return bytes(matrix) if matrix else None  # type: ignore[call-overload]
