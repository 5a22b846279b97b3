"""Whether an NVIDIA GPU can be used, found out without any of NVIDIA's Python packages."""

import ctypes

_DRIVER = "libcuda.so.1"


def driver_missing() -> str | None:
    """What is missing for CUDA on this machine, None if it is all there.

    Asked before any library that needs the driver is called: TensorRT crashes without one.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return "no NVIDIA driver is installed"
    code = int(driver.cuInit(0))
    if code:
        return f"the NVIDIA driver does not start (CUDA error {code})"
    count = ctypes.c_int(0)
    driver.cuDeviceGetCount(ctypes.byref(count))
    return None if count.value else "no NVIDIA GPU was found"
