"""A page on this machine that shows what a model makes of faces, before and after its adaptation. docs/demo.md."""

ASKS_NOBODY = "the demo asks nobody: fetch it by another tool first, or name a file (--base FILE)"
INSTALL = 'the demo needs gradio: pip install "gradio>=6,<7"'
