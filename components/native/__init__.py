"""C++ kernels, built on this machine by its own compiler.

`library.py` is what kernels use: a `NativeLibrary` names its sources and loads as a `ctypes` library, or says why it
can't. `cpp/` has what the sources of all libraries share. The other files find the compiler and the cache's folder,
build, and check what the cache holds.
"""
