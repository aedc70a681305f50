"""Names of the files of a model in stages."""


def stage_file(index: int) -> str:
    """The model of a stage; its weights lie in ``<name>.data``."""
    return f"stage-{index}.onnx"
