"""Each build of the kernels that this CPU runs."""

import pytest

BUILDS = ("portable", "avx2", "avx512")


@pytest.fixture(params=BUILDS)
def build(request):
    kernels = pytest.importorskip("nncompile_kernels", reason="nncompile-kernels is not installed")
    if kernels.library_path(request.param) is None:
        pytest.skip(f"nncompile-kernels has no {request.param} library that this CPU runs")
    return request.param
