"""Reads models and captures them: bytes and PyTorch in, `cgptc.ir` graphs out."""
