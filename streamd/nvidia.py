"""Whether an NVIDIA GPU can be used, found out without any of NVIDIA's Python packages."""

import ctypes

_DRIVER, _DECODER = "libcuda.so.1", "libnvcuvid.so.1"
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE, also where CUDA_VISIBLE_DEVICES hides them all


def driver_missing() -> str | None:
    """What is missing for CUDA on this machine, None if it is all there.

    Asked before any library that needs the driver is called: TensorRT crashes without one.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return "no NVIDIA driver is installed"
    code = int(driver.cuInit(0))
    if code and code != _NO_DEVICE:
        return f"the NVIDIA driver does not start: {_meaning(driver, code)} (CUDA error {code})"
    count = ctypes.c_int(0)
    driver.cuDeviceGetCount(ctypes.byref(count))
    return None if count.value else "no NVIDIA GPU was found"


def decoder_missing() -> str | None:
    """What is missing for decoding on a GPU, None if it is all there.

    Without NVDEC's library FFmpeg opens the GPU, and then decodes on the CPU without a word.
    """
    if missing := driver_missing():
        return missing
    try:
        ctypes.CDLL(_DECODER)
    except OSError:
        return (
            f"the NVIDIA driver is here without its {_DECODER}, which decodes "
            "(a container has it if NVIDIA_DRIVER_CAPABILITIES names video)"
        )
    return None


def _meaning(driver: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
    return (text.value or b"unknown error").decode()
