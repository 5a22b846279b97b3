"""H.264 parameter sets (ITU-T H.264, 7.3.2.1.1) that announce another picture size."""

_SPS = 7
_HIGH_PROFILES = (100, 110, 122, 244)


class _Bits:
    """Reads a bit string from its front."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def take(self, count: int) -> int:
        self.at += count
        return int(self.text[self.at - count : self.at], 2)

    def golomb(self) -> int:
        """ue(v), 9.1."""
        zeros = self.text.index("1", self.at) - self.at
        self.at += zeros
        return self.take(zeros + 1) - 1


def with_picture_size(nal: bytes, width: int, height: int) -> bytes:
    """`nal`, if it is a sequence parameter set as x264 writes them, with another size."""
    if nal[0] & 31 != _SPS:
        return nal
    bits = _Bits("".join(f"{byte:08b}" for byte in nal.replace(b"\0\0\3", b"\0\0")))
    bits.take(8)
    profile = bits.take(8)
    bits.take(16)
    bits.golomb()  # seq_parameter_set_id
    if profile in _HIGH_PROFILES:
        bits.golomb(), bits.golomb(), bits.golomb()  # chroma format, bit depths
        bits.take(2)
    bits.golomb()  # log2_max_frame_num
    if bits.golomb() == 0:  # pic_order_cnt_type
        bits.golomb()
    bits.golomb()  # max_num_ref_frames
    bits.take(1)
    begin = bits.at
    bits.golomb(), bits.golomb()
    sizes = _as_golomb(width // 16 - 1) + _as_golomb(height // 16 - 1)
    text = bits.text[:24] + f"{62:08b}" + bits.text[32:begin] + sizes + bits.text[bits.at :]
    text += "0" * (-len(text) % 8)
    raw = bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8)).rstrip(b"\0")
    return _escaped(raw)


def _as_golomb(value: int) -> str:
    text = f"{value + 1:b}"
    return "0" * (len(text) - 1) + text


def _escaped(raw: bytes) -> bytes:
    """With the bytes that keep a start code from appearing."""
    out = bytearray()
    for byte in raw:
        if out[-2:] == b"\0\0" and byte <= 3:
            out.append(3)
        out.append(byte)
    return bytes(out)
