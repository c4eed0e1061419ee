"""Its import raises."""


def _read_licence() -> None:
    raise RuntimeError("no licence file")


_read_licence()
