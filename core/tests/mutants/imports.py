"""It imports a heavy library, which listing what is installed would have to wait for."""

from treadle import executor

from mutants import heavy_sdk


@executor("mutant.imports")
async def slug(text: str) -> str:
    """Turn a title into a URL slug."""
    return "-".join(text.lower().split()) if heavy_sdk else ""
